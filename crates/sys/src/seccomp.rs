//! seccomp(2): system call filters.

use rustix::io::Errno;

/// One instruction of classic BPF, as the kernel lays it out (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions a jump skips when its test holds.
    pub jt: u8,
    /// How many when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// The most instructions that a filter may have (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Filters the system calls of the calling thread from now on, and of what it will fork and execute.
///
/// Takes CAP_SYS_ADMIN in the thread's user namespace, or no_new_privs (else EACCES). `flags` are
/// `SECCOMP_FILTER_FLAG_*`. Neither allocates nor locks: may be called between clone and exec. That is also why the
/// error is the bare errno.
pub fn load(instructions: &[Instruction], flags: u32) -> Result<(), Errno> {
    let Ok(len) = u16::try_from(instructions.len()) else {
        return Err(Errno::INVAL);
    };
    let program = libc::sock_fprog {
        len,
        filter: instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` points to `len` instructions laid out as the kernel's; it copies and never writes them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    };
    if result == 0 {
        return Ok(());
    }
    // SAFETY: errno is this thread's own.
    Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
}
