//! The ABIs of an x86_64 machine, and the numbers that seccomp(2) and linux/audit.h give them.

use oci_spec::runtime::Arch;

use super::syscalls::Numbers;

/// How a program calls the kernel: which numbers, and how wide the arguments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    /// 32-bit pointers in 64-bit mode: the architecture of x86_64, marked by a bit in the number.
    X32,
    X86,
}

/// `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The first number that is x32's own. Below it x32 numbers its calls as x86_64 does, with the bit set.
pub(super) const X32_OWN: u32 = X32_BIT | 512;

pub(super) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_ARCH_I386: u32 = 0x4000_0003;

pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;
pub(super) const RET_LOG: u32 = 0x7ffc_0000;
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;

/// `ENOSYS`.
pub(super) const ENOSYS: u32 = 38;

impl Abi {
    pub(super) const ALL: [Abi; 3] = [Abi::X86_64, Abi::X32, Abi::X86];

    /// The ABIs that a profile covers, of those this machine has.
    pub(super) fn listed(architectures: Option<&[Arch]>) -> Vec<Abi> {
        let Some(list) = architectures.filter(|l| !l.is_empty()) else {
            return vec![Abi::X86_64];
        };
        let listed = |abi: &Abi| {
            list.iter().any(|arch| match abi {
                Abi::X86_64 => matches!(arch, Arch::ScmpArchX86_64 | Arch::ScmpArchNative),
                Abi::X32 => matches!(arch, Arch::ScmpArchX32),
                Abi::X86 => matches!(arch, Arch::ScmpArchX86),
            })
        };
        // The native ABI is the one this process itself is about to execute with: runc's libseccomp always adds it.
        Abi::ALL
            .into_iter()
            .filter(|abi| *abi == Abi::X86_64 || listed(abi))
            .collect()
    }

    /// A call's number on this ABI, as the kernel sees it.
    pub(super) fn number(self, call: Numbers) -> Option<u32> {
        match self {
            Abi::X86_64 => call.x86_64,
            Abi::X32 => call.x32.map(|n| n | X32_BIT),
            Abi::X86 => call.x86,
        }
    }

    /// True if arguments have 64 bits. (x32 passes 64-bit registers, and calls that take 64-bit values use them.)
    pub(super) fn wide(self) -> bool {
        self != Abi::X86
    }
}
