//! The caller's own memory: how little of it can stay resident.

use crate::{Error, Result};

/// Keeps the kernel from backing the caller's memory with huge pages: a small process would hold 2 MiB where it
/// touched 4 KiB. Children inherit it.
pub fn disable_huge_pages() -> Result<()> {
    // SAFETY: prctl(PR_SET_THP_DISABLE) takes four integers and touches no memory of the caller's.
    let done = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::last("prctl(PR_SET_THP_DISABLE, 1)"))
    }
}

/// Buffers of this many bytes and more go back to the kernel when they are freed.
const LARGE: libc::c_int = 64 << 10;
/// Threads share so many heaps.
const HEAPS: libc::c_int = 2;

/// Makes the allocator keep little for later, in a process that has bursts: glibc has a heap for each thread, and raises the size
/// from which a buffer is given back to that of the largest one that ever was. To be called before there are threads.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_ARENA_MAX, HEAPS),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
        (libc::M_TOP_PAD, LARGE),
    ] {
        // SAFETY: mallopt takes two integers, and the allocator's own lock. A value that it does not take leaves it as it was.
        unsafe {
            libc::mallopt(setting, value);
        }
    }
}

/// Gives what the allocator keeps for later, and the part of the main thread's stack that is not in use, back to the
/// kernel. Costs some microseconds: for after a burst.
pub fn trim() {
    trim_stack();
    // SAFETY: malloc_trim has no preconditions; it takes the allocator's own lock and frees only pages that hold no
    // allocation.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// How far below the caller's frame the stack is left alone, in bytes: the frames of this function and of what it calls, and
/// the 128 bytes below the stack pointer that x86_64 lets a function use.
const STACK_IN_USE: usize = 8 * 1024;

/// How much of the stack below that is given back, in bytes. Less than the kernel's gap (256 pages) below a stack, in which
/// it places no other mapping: so whatever lies in this range is the stack.
const STACK_SPARE: usize = 512 * 1024;

/// The main thread's stack keeps every page that its deepest call has ever touched.
#[inline(never)]
fn trim_stack() {
    // Another thread's stack has neighbours.
    if rustix::thread::gettid() != rustix::process::getpid() {
        return;
    }
    let here = 0u8;
    let page = rustix::param::page_size();
    let top = ((&raw const here).addr() - STACK_IN_USE) & !(page - 1);
    // SAFETY: the range is below this frame (STACK_IN_USE says by how much), and above the gap that the kernel keeps below
    // the main thread's stack (STACK_SPARE), so it holds nothing but ended calls' frames, which nobody reads again; the next
    // call that goes so deep finds zeroes. No signal's frame is there: this thread is in this call. What isn't mapped is skipped (the call then says ENOMEM).
    unsafe {
        libc::madvise(
            std::ptr::without_provenance_mut(top - STACK_SPARE),
            STACK_SPARE,
            libc::MADV_DONTNEED,
        );
    }
}
