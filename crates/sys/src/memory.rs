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

/// [`trim`]s, and unmaps what was touched of the program's own code and constants: for after a start. What goes on being used comes back
/// from the page cache, sixteen pages at a time and without a read of the disk; what the start alone used does not. The kernel does
/// the same where memory is short.
pub fn forget_the_start() {
    trim();
    // SAFETY: the callback has the type that is asked for, and keeps nothing of what it is shown.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::dl_iterate_phdr(Some(unmap_constants), std::ptr::null_mut());
    }
}

/// Shown the segments of the program, which dl_iterate_phdr(3) names first, and then asks for no more.
#[cfg(target_env = "gnu")]
unsafe extern "C" fn unmap_constants(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr passes a description that is valid during this call, with so many program headers.
    let (base, segments) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, count))
    };
    let page = rustix::param::page_size();
    let is_constant =
        |segment: &&libc::Elf64_Phdr| segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0;
    for segment in segments.iter().filter(is_constant) {
        let begin = (base + segment.p_vaddr) as usize;
        // Whole pages: the last one may be another segment's as well.
        let (from, to) = (begin & !(page - 1), (begin + segment.p_memsz as usize) & !(page - 1));
        // SAFETY: the range is a mapping of the program's file that nobody may write to, so that its pages are the file's, and come back
        // as they were when they are touched next.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(from), to - from, libc::MADV_DONTNEED);
        }
    }
    1
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is resident of the program's file, in kB.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn a_program_goes_on_without_what_it_was_started_with() {
        let before = resident();
        forget_the_start();
        let after = resident();
        assert!(after < before, "{before} kB before, {after} kB after");
    }
}
