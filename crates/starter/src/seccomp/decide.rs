//! What the answer to each system call is: pure, from the profile alone.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::abi::{Abi, ENOSYS, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS, RET_LOG, X32_BIT, X32_OWN};
use super::error::{Error, Result};
use super::syscalls::{self, Numbers};

/// The answer to a system call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Decision {
    /// This value, whatever the arguments are.
    Always(u32),
    /// That of the first check that holds, else `otherwise`.
    Ask {
        checks: Vec<Check>,
        otherwise: u32,
        wide: bool,
    },
}

/// Conditions that must all hold, and the answer then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Check {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub(super) argument: u32,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// (mask, value): `argument & mask == value`.
    Masked(u64, u64),
}

/// Neighbouring numbers with the same answer, each row of them given by its first number.
pub(super) type Segments = Vec<(u32, Decision)>;

/// All answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// From 0 up to [`X32_BIT`].
    pub(super) x86_64: Segments,
    pub(super) x32: X32,
    /// From 0 on. `None`: every call of it kills.
    pub(super) x86: Option<Segments>,
}

/// The answers from [`X32_BIT`] on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum X32 {
    /// As x86_64's without the bit, up to [`X32_OWN`]; from there on these.
    Listed(Segments),
    /// These.
    NotListed(Segments),
}

/// `SECCOMP_FILTER_FLAG_*`. TSYNC means nothing to a process with one thread; WAIT_KILLABLE_RECV nothing without a
/// listener.
pub(super) fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    Ok(profile.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync
                | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
    }))
}

pub(super) fn filter(profile: &LinuxSeccomp) -> Result<Filter> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let abis = Abi::listed(profile.architectures().as_deref());
    let rules = rules(profile)?;
    let segments = |abi| abi_segments(&rules, abi, default);

    let tracer = (u32::MAX, Decision::Always(default));
    let x32 = if abis.contains(&Abi::X32) {
        let mut own = merged(segments(Abi::X32)?);
        let first = own.partition_point(|(start, _)| *start <= X32_OWN) - 1;
        own.drain(..first);
        own[0].0 = X32_OWN;
        own.push(tracer.clone());
        X32::Listed(merged(own))
    } else {
        X32::NotListed(vec![(X32_BIT, Decision::Always(RET_KILL_PROCESS)), tracer.clone()])
    };
    let x86 = match abis.contains(&Abi::X86) {
        false => None,
        true => {
            let mut x86 = segments(Abi::X86)?;
            x86.push(tracer);
            Some(merged(x86))
        }
    };
    Ok(Filter {
        x86_64: merged(segments(Abi::X86_64)?),
        x32,
        x86,
    })
}

/// A rule's action for one call.
struct Rule<'a> {
    call: Numbers,
    name: &'a str,
    action: u32,
    args: &'a [LinuxSeccompArg],
}

/// The rules about calls that the table has, in the profile's order.
fn rules(profile: &LinuxSeccomp) -> Result<Vec<Rule<'_>>> {
    let mut rules = Vec::with_capacity(512);
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        let args = rule.args().as_deref().unwrap_or_default();
        let known = rule
            .names()
            .iter()
            .filter_map(|name| Some((name, syscalls::numbers(name)?)));
        rules.extend(known.map(|(name, call)| Rule {
            call,
            name,
            action,
            args,
        }));
    }
    Ok(rules)
}

/// The segments of one ABI, from its first number on.
fn abi_segments(rules: &[Rule<'_>], abi: Abi, default: u32) -> Result<Segments> {
    let mut calls: Vec<(u32, &Rule<'_>)> = rules.iter().filter_map(|r| Some((abi.number(r.call)?, r))).collect();
    // Stable: the rules about one call stay in their order.
    calls.sort_by_key(|(number, _)| *number);
    let newest = calls.last().map(|(number, _)| *number);
    calls.retain(|(_, rule)| rule.action != default);

    let first = if abi == Abi::X32 { X32_BIT } else { 0 };
    let mut segments = vec![(first, Decision::Always(default))];
    for about in calls.chunk_by(|a, b| a.0 == b.0) {
        let number = about[0].0;
        let decision = match about.iter().find(|(_, rule)| rule.args.is_empty()) {
            Some((_, rule)) => Decision::Always(rule.action),
            None => {
                let checks = about
                    .iter()
                    .map(|(_, rule)| to_checks(rule, abi.wide()))
                    .collect::<Result<Vec<_>>>()?;
                Decision::Ask {
                    checks: checks.concat(),
                    otherwise: default,
                    wide: abi.wide(),
                }
            }
        };
        segments.push((number, decision));
        segments.push((number + 1, Decision::Always(default)));
    }
    let denies = !matches!(default, RET_ALLOW | RET_LOG);
    if let (true, Some(newest)) = (denies, newest) {
        segments.push((newest + 1, Decision::Always(RET_ERRNO | ENOSYS)));
    }
    Ok(segments)
}

/// Of segments that begin at the same number the last counts; neighbours with the same answer become one.
fn merged(segments: Segments) -> Segments {
    let mut merged = Segments::new();
    for (start, decision) in segments {
        merged.pop_if(|last| last.0 == start);
        if merged.last().is_none_or(|last| last.1 != decision) {
            merged.push((start, decision));
        }
    }
    merged
}

fn to_checks(rule: &Rule<'_>, wide: bool) -> Result<Vec<Check>> {
    let Rule { name, action, args, .. } = *rule;
    let mut conditions = Vec::new();
    let mut twice = false;
    for (i, arg) in args.iter().enumerate() {
        let argument = u32::try_from(arg.index()).ok().filter(|n| *n < 6);
        let argument = argument.ok_or_else(|| Error::Argument {
            call: name.to_owned(),
            index: arg.index(),
        })?;
        twice |= args[..i].iter().any(|earlier| earlier.index() == arg.index());
        conditions.push(Condition {
            argument,
            test: test(arg, wide),
        });
    }
    Ok(if twice {
        conditions
            .into_iter()
            .map(|c| Check {
                conditions: vec![c],
                action,
            })
            .collect()
    } else {
        vec![Check { conditions, action }]
    })
}

fn test(arg: &LinuxSeccompArg, wide: bool) -> Test {
    let cut = |n: u64| if wide { n } else { n & 0xffff_ffff };
    let value = cut(arg.value());
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
        // Bits of the value outside of the mask could never match; libseccomp clears them.
        LinuxSeccompOperator::ScmpCmpMaskedEq => Test::Masked(value, cut(arg.value_two().unwrap_or(0)) & value),
    }
}

/// The value that a filter returns for an action (seccomp(2), "Filters").
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::Listener {
            action: action.to_string(),
        });
    }
    match errno {
        Some(errno) if errno > 4095 => Err(Error::Errno { errno }),
        _ => Ok(action.as_u32(errno)),
    }
}
