//! What a profile means, written down as directly as possible: the yardstick for compiled filters. Shares no code with
//! the compiler but the table of names.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};

/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_I386.
pub(super) const X86_64: u32 = 0xc000003e;
pub(super) const I386: u32 = 0x40000003;
pub(super) const X32: u32 = 0x4000_0000;

/// A profile to be asked.
pub(super) struct Reference<'a> {
    profile: &'a LinuxSeccomp,
    rules: Vec<LinuxSyscall>,
}

impl<'a> Reference<'a> {
    pub(super) fn new(profile: &'a LinuxSeccomp) -> Self {
        Reference {
            profile,
            rules: profile.syscalls().iter().flatten().flat_map(split).collect(),
        }
    }

    pub(super) fn evaluate(&self, nr: u32, arch: u32, args: [u64; 6]) -> u32 {
        let default = value(self.profile.default_action(), self.profile.default_errno_ret());
        let listed = |wanted| self.profile.architectures().iter().flatten().any(|a| *a == wanted);
        let (known, narrow) = match arch {
            X86_64 if nr >= X32 => (listed(Arch::ScmpArchX32), false),
            X86_64 => (true, false),
            I386 => (listed(Arch::ScmpArchX86), true),
            _ => return 0x8000_0000,
        };
        if nr == u32::MAX && (known || arch == X86_64) {
            return default;
        }
        if !known {
            return 0x8000_0000;
        }
        if arch == X86_64 && (X32..X32 + 512).contains(&nr) {
            return self.evaluate(nr - X32, arch, args);
        }
        let number = |name: &str| {
            let numbers = super::syscalls::numbers(name)?;
            match arch {
                I386 => numbers.x86,
                _ if nr >= X32 => numbers.x32.map(|n| n + X32),
                _ => numbers.x86_64,
            }
        };
        let (profile, rules) = (self.profile, &self.rules);
        let named = rules.iter().flat_map(|r| r.names()).filter_map(|n| number(n)).max();
        if !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog)
            && named.is_some_and(|n| nr > n)
        {
            return 0x50000 + 38;
        }
        let about: Vec<&LinuxSyscall> = rules
            .iter()
            .filter(|r| r.names().iter().any(|n| number(n) == Some(nr)))
            .filter(|r| value(r.action(), r.errno_ret()) != default)
            .collect();
        let unconditional = about.iter().find(|r| r.args().as_ref().is_none_or(Vec::is_empty));
        let conditional = || {
            about.iter().find(|r| {
                r.args()
                    .iter()
                    .flatten()
                    .all(|arg| holds(arg, args[arg.index()], narrow))
            })
        };
        unconditional
            .or_else(conditional)
            .map_or(default, |r| value(r.action(), r.errno_ret()))
    }
}

/// A rule that names an argument twice is a rule for each of its conditions.
fn split(rule: &LinuxSyscall) -> Vec<LinuxSyscall> {
    let args = rule.args().clone().unwrap_or_default();
    let mut indices: Vec<usize> = args.iter().map(|a| a.index()).collect();
    indices.sort();
    indices.dedup();
    if indices.len() == args.len() {
        return vec![rule.clone()];
    }
    let with = |arg| {
        let mut one = rule.clone();
        one.set_args(Some(vec![arg]));
        one
    };
    args.into_iter().map(with).collect()
}

fn holds(arg: &LinuxSeccompArg, actual: u64, narrow: bool) -> bool {
    let cut = |n: u64| if narrow { n % (1 << 32) } else { n };
    let (actual, value, two) = (cut(actual), cut(arg.value()), cut(arg.value_two().unwrap_or(0)));
    match arg.op() {
        Operator::ScmpCmpNe => actual != value,
        Operator::ScmpCmpLt => actual < value,
        Operator::ScmpCmpLe => actual <= value,
        Operator::ScmpCmpEq => actual == value,
        Operator::ScmpCmpGe => actual >= value,
        Operator::ScmpCmpGt => actual > value,
        Operator::ScmpCmpMaskedEq => actual & value == two & value,
    }
}

fn value(action: Action, errno: Option<u32>) -> u32 {
    let errno = errno.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x3_0000,
        Action::ScmpActErrno => 0x5_0000 + errno,
        Action::ScmpActTrace => 0x7ff0_0000 + errno,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
        Action::ScmpActNotify => unreachable!("not compiled"),
    }
}
