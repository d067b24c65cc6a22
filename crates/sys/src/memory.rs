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

/// Gives what the allocator keeps for later back to the kernel. Costs some microseconds: for after a burst.
pub fn trim() {
    // SAFETY: malloc_trim has no preconditions; it takes the allocator's own lock and frees only pages that hold no
    // allocation.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
