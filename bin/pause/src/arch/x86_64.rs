//! What pause needs of x86_64: the ELF header, the entry point and seven system calls (syscall(2), "Architecture
//! calling conventions"). Another architecture is one more file with the same functions.

use core::arch::{asm, global_asm, naked_asm};
use core::ffi::CStr;

// The file begins with this header and two program headers (elf(5)); pause.ld says where things are. One segment holds
// headers, code and constants, readable and executable: with nothing writable, a process of it owns no page of the
// file. The other says that the stack is not executable.
global_asm!(
    ".section .header, \"a\", @progbits",
    ".byte 0x7f, 0x45, 0x4c, 0x46", // magic
    ".byte 2, 1, 1, 0",             // 64 bits, little endian, version 1, System V
    ".quad 0",
    ".short 2",               // an executable at fixed addresses
    ".short 62",              // x86_64
    ".long 1",                // version
    ".quad {start}",          // entry point
    ".quad 64",               // program headers are behind this header
    ".quad 0",                // no section headers
    ".long 0",                // flags
    ".short 64, 56, 2, 0, 0, 0", // sizes: header, program header and their number; section headers
    // PT_LOAD, read and execute: offset, virtual and physical address, size in file and memory, alignment
    ".long 1, 5",
    ".quad 0, __base, __base, __size, __size, 0x1000",
    // PT_GNU_STACK, read and write
    ".long 0x6474e551, 6",
    ".quad 0, 0, 0, 0, 0, 16",
    ".previous",
    start = sym _start,
);

/// The entry point: the kernel leaves argc at the top of the stack, aligned to 16 bytes.
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("mov rdi, rsp", "call {main}", main = sym crate::main)
}

/// Where a signal handler returns to: rt_sigreturn(2) puts the interrupted state back. The kernel has no restorer of
/// its own on x86_64.
#[unsafe(naked)]
unsafe extern "C" fn restore() -> ! {
    naked_asm!("push {nr}", "pop rax", "syscall", nr = const RT_SIGRETURN)
}

const WRITE: usize = 1;
const RT_SIGACTION: usize = 13;
const RT_SIGRETURN: usize = 15;
const PAUSE: usize = 34;
const GETPID: usize = 39;
const WAIT4: usize = 61;
const PRCTL: usize = 157;
const EXIT_GROUP: usize = 231;

const SA_RESTORER: usize = 0x0400_0000;
const WNOHANG: usize = 1;
const PR_SET_NAME: usize = 15;

/// The kernel's own `struct sigaction`, which is not the C library's.
#[repr(C)]
struct SigAction {
    handler: extern "C" fn(i32),
    flags: usize,
    restorer: unsafe extern "C" fn() -> !,
    mask: u64,
}

/// # Safety
/// The arguments are what the call with this number wants.
#[inline(always)]
unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: the kernel changes rax, rcx and r11 and nothing else of ours but what the arguments point to.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

pub fn write(fd: usize, bytes: &[u8]) {
    // SAFETY: the bytes are valid for reading. What can't be written is lost; there is nobody to tell.
    unsafe { syscall(WRITE, fd, bytes.as_ptr() as usize, bytes.len(), 0) };
}

pub fn getpid() -> isize {
    // SAFETY: no arguments.
    unsafe { syscall(GETPID, 0, 0, 0, 0) }
}

/// Names the process, as ps shows it (proc_pid_comm(5)).
pub fn set_name(name: &CStr) {
    // SAFETY: the kernel reads up to 16 bytes and stops at the NUL.
    unsafe { syscall(PRCTL, PR_SET_NAME, name.as_ptr() as usize, 0, 0) };
}

/// Installs a signal handler; below 0: not.
pub fn handle(signal: i32, handler: extern "C" fn(i32), flags: usize) -> isize {
    let action = SigAction {
        handler,
        flags: flags | SA_RESTORER,
        restorer: restore,
        mask: 0,
    };
    // SAFETY: the action outlives the call; the old one is not asked for; a signal set has 8 bytes.
    unsafe { syscall(RT_SIGACTION, signal as usize, &raw const action as usize, 0, 8) }
}

/// Waits for one child that has ended; its id, or 0 or less if there is none.
pub fn reap_one() -> isize {
    // SAFETY: neither status nor resource usage is asked for.
    unsafe { syscall(WAIT4, -1isize as usize, 0, WNOHANG, 0) }
}

/// Sleeps until a signal was handled: -EINTR then.
pub fn sleep() -> isize {
    // SAFETY: no arguments.
    unsafe { syscall(PAUSE, 0, 0, 0, 0) }
}

pub fn exit(code: usize) -> ! {
    // SAFETY: the process ends here.
    unsafe { asm!("syscall", in("rax") EXIT_GROUP, in("rdi") code, options(noreturn, nostack)) }
}
