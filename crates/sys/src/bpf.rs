//! bpf(2), as far as cgroups need it: device programs.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// One instruction of eBPF, as the kernel lays it out (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u8,
    /// The destination register in the lower half, the source register in the upper.
    pub registers: u8,
    /// How far a jump goes, or where in memory a load reads.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

const PROG_LOAD: c_int = 5;
const PROG_ATTACH: c_int = 8;
const PROG_DETACH: c_int = 9;
const PROG_GET_FD_BY_ID: c_int = 13;
const PROG_QUERY: c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;

/// Cgroups below may attach programs of their own; all of them are asked, and each must allow.
const F_ALLOW_MULTI: u32 = 1 << 1;

/// The most programs that a cgroup can have (`BPF_CGROUP_MAX_PROGS`).
const MAX_ATTACHED: usize = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub fn load_device_program(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut name = [0; 16];
    name[..12].copy_from_slice(b"hove_devices");
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        // It calls none of the kernel's functions, so any licence will do.
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: name,
        ..LoadAttr::default()
    };
    // SAFETY: instructions and licence outlive the call, which copies them.
    let fd = unsafe { bpf(PROG_LOAD, &raw mut attr) };
    match fd {
        // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::last(format_args!(
            "bpf(BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions)",
            instructions.len()
        ))),
    }
}

/// Makes `program` the one that is asked about devices for the processes of `cgroup` (a directory of a v2 hierarchy), in
/// place of those that were attached there before.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let before = attached(cgroup)?;
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI,
    };
    // SAFETY: no pointers in it.
    if unsafe { bpf(PROG_ATTACH, &raw mut attr) } < 0 {
        return Err(Error::last("bpf(BPF_PROG_ATTACH, BPF_CGROUP_DEVICE)"));
    }
    // While both are there, both must allow: there is no moment without rules.
    for id in before {
        let mut by_id = [id, 0, 0];
        // SAFETY: the attributes are one number, followed by optional ones.
        let old = unsafe { bpf(PROG_GET_FD_BY_ID, &raw mut by_id) };
        if old < 0 {
            return Err(Error::last(format_args!("bpf(BPF_PROG_GET_FD_BY_ID, {id})")));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let old = unsafe { OwnedFd::from_raw_fd(old) };
        attr.attach_bpf_fd = old.as_raw_fd() as u32;
        attr.attach_flags = 0;
        // SAFETY: no pointers in it.
        if unsafe { bpf(PROG_DETACH, &raw mut attr) } < 0 {
            return Err(Error::last(format_args!(
                "bpf(BPF_PROG_DETACH, BPF_CGROUP_DEVICE, program {id})"
            )));
        }
    }
    Ok(())
}

/// The ids of the programs attached to `cgroup` itself.
fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_ATTACHED];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttr::default()
    };
    // SAFETY: `prog_ids` has room for `prog_cnt` numbers; the kernel writes those, and how many it wrote into `attr`.
    if unsafe { bpf(PROG_QUERY, &raw mut attr) } < 0 {
        return Err(Error::last("bpf(BPF_PROG_QUERY, BPF_CGROUP_DEVICE)"));
    }
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// # Safety
/// `attr` is what `command` wants, and so is what it points to.
unsafe fn bpf<T>(command: c_int, attr: *mut T) -> c_int {
    // SAFETY: as the caller says; the size keeps the kernel from reading past it.
    unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) as c_int }
}
