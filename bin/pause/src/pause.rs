//! PID 1 of a pod: holds the namespaces, reaps the orphans, and sleeps until it is told to die.
//!
//! Compiled by build.rs, apart from the rest of Hove: no std, no start files, one object file laid out by pause.ld.
//! It has no writable data and can't panic (a call into core's panic code would be an undefined symbol at link time).
//!
//! | it | by |
//! |---|---|
//! | prints its version on stdout and exits 0 | an argument `-v` or `-V` |
//! | warns on stderr | not being PID 1 |
//! | exits 1, 2, 3 | SIGINT, SIGTERM, SIGCHLD can't be handled |
//! | says so on stderr and exits 0 | SIGINT, SIGTERM |
//! | reaps every zombie there is | SIGCHLD |
//! | exits 42 | the sleep being refused, the one way out of the loop |

#![no_std]
#![deny(warnings)]

#[cfg_attr(target_arch = "x86_64", path = "arch/x86_64.rs")]
mod arch;

use arch::{exit, getpid, handle, reap_one, set_name, sleep, write};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// Stopped children are nobody's business here.
const SA_NOCLDSTOP: usize = 1;

const EINTR: isize = 4;

const STDOUT: usize = 1;
const STDERR: usize = 2;

/// Called by the entry point with the stack as the kernel left it: argc, then argv, then NULL (elf(5), "Stack").
///
/// # Safety
/// `stack` is that stack.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: argc words follow argc, each a pointer to a string that ends with NUL; `asks_version` stops there.
    let version_wanted = unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const u8>();
        let mut i = 1;
        loop {
            if i >= argc {
                break false;
            }
            if asks_version(*argv.add(i)) {
                break true;
            }
            i += 1;
        }
    };
    if version_wanted {
        write(
            STDOUT,
            concat!("pause (Hove) ", env!("CARGO_PKG_VERSION"), "\n").as_bytes(),
        );
        exit(0);
    }
    // Started from a descriptor, it would be listed under that one's name (“memfd:pause”).
    set_name(c"pause");
    if getpid() != 1 {
        write(
            STDERR,
            b"Warning: pause should be the first process of its PID namespace\n",
        );
    }
    if handle(SIGINT, shut_down, 0) < 0 {
        exit(1);
    }
    if handle(SIGTERM, shut_down, 0) < 0 {
        exit(2);
    }
    if handle(SIGCHLD, reap, SA_NOCLDSTOP) < 0 {
        exit(3);
    }
    while sleep() == -EINTR {}
    write(STDERR, b"Error: the endless loop has ended\n");
    exit(42)
}

/// True for "-v" and "-V".
///
/// # Safety
/// `argument` points to a string that ends with NUL.
unsafe fn asks_version(argument: *const u8) -> bool {
    // SAFETY: each byte is read only when the one before it was not the NUL.
    unsafe { *argument == b'-' && *argument.add(1) | 0x20 == b'v' && *argument.add(2) == 0 }
}

extern "C" fn shut_down(signal: i32) {
    // One write each, so that the line stays whole among other processes' output.
    let line: &[u8] = match signal {
        SIGINT => b"Shutting down, got signal: Interrupt\n",
        _ => b"Shutting down, got signal: Terminated\n",
    };
    write(STDERR, line);
    exit(0)
}

/// Any number of children may have ended behind one SIGCHLD: the kernel does not queue a second while one is pending.
extern "C" fn reap(_signal: i32) {
    while reap_one() > 0 {}
}
