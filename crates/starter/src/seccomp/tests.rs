use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};
use proptest::prelude::*;

use super::interpret::run;
use super::reference::{I386, Reference, X32, X86_64};
use super::*;

const ARCHITECTURES: [u32; 3] = [X86_64, I386, 0xc00000b7];

/// Every number there is, around it, and the ends of the number space.
fn numbers() -> impl Iterator<Item = u32> + Clone {
    (0..600)
        .chain(X32 - 2..X32 + 600)
        .chain([u32::MAX / 2, u32::MAX - 1, u32::MAX])
}

fn agree(profile: &LinuxSeccomp, program: &Program, args: [u64; 6]) {
    agree_on(profile, program, args, numbers());
}

fn agree_on(profile: &LinuxSeccomp, program: &Program, args: [u64; 6], numbers: impl Iterator<Item = u32> + Clone) {
    let reference = Reference::new(profile);
    for arch in ARCHITECTURES {
        for nr in numbers.clone() {
            let expected = reference.evaluate(nr, arch, args);
            let (got, _) = run(program.instructions(), nr, arch, args);
            assert_eq!(got, expected, "nr {nr} arch {arch:#x} args {args:x?}");
        }
    }
}

fn capabilities(list: &[Capability]) -> HashSet<Capability> {
    list.iter().copied().collect()
}

fn docker_default() -> LinuxSeccomp {
    use Capability as C;
    default_profile(&capabilities(&[
        C::Chown,
        C::Fowner,
        C::Kill,
        C::NetRaw,
        C::SysChroot,
        C::AuditWrite,
    ]))
}

#[test]
fn the_default_profile_means_what_the_reference_says() {
    for profile in [
        docker_default(),
        default_profile(&capabilities(&[Capability::SysAdmin, Capability::SysTime])),
    ] {
        let program = compile(&profile).unwrap();
        for first in [
            0,
            8,
            17,
            40,
            41,
            0x1_0000_0028,
            0x20008,
            0xffff_ffff,
            0x1000_0000,
            u64::MAX,
        ] {
            agree(&profile, &program, [first, 0, 0, 0, 0, 0]);
        }
    }
}

#[test]
fn the_default_profile_by_example() {
    let program = compile(&docker_default()).unwrap();
    let number = |name: &str| syscalls::numbers(name).unwrap().x86_64.unwrap();
    let answer = |name: &str, first: u64| run(program.instructions(), number(name), X86_64, [first, 0, 0, 0, 0, 0]).0;
    let (allow, eperm, enosys) = (0x7fff0000, 0x50001, 0x50026);
    for (name, first, expected) in [
        ("read", 0, allow),
        ("chroot", 0, allow),
        ("mount", 0, eperm),
        ("unshare", 0, eperm),
        ("io_uring_setup", 0, eperm),
        ("keyctl", 0, eperm),
        ("clone", 0x11, allow),
        ("clone", 0x1000_0000, eperm),
        ("clone3", 0, enosys),
        ("socket", 2, allow),
        ("socket", 40, eperm),
        ("socket", 0x1_0000_0028, eperm),
        ("personality", 0, allow),
        ("personality", 0x4_0000, eperm),
        ("file_setattr", 0, enosys),
    ] {
        assert_eq!(answer(name, first), expected, "{name} {first:#x}");
    }
}

#[test]
fn unconditional_calls_are_answered_in_a_few_steps() {
    let program = compile(&docker_default()).unwrap();
    let steps: Vec<usize> = (0..470)
        .map(|nr| run(program.instructions(), nr, X86_64, [0; 6]).1)
        .collect();
    let most = steps.iter().max().unwrap();
    let mean = steps.iter().sum::<usize>() as f64 / steps.len() as f64;
    println!(
        "default profile: {} instructions; steps: mean {mean:.1}, most {most}",
        program.instructions().len()
    );
    assert!(*most <= 24 && mean < 12.0);
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value)
        .value_two(two)
        .build()
        .unwrap()
}

fn rule(names: &[&str], action: LinuxSeccompAction, errno: Option<u32>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|n| n.to_string()).collect())
        .set_action(action)
        .set_errno_ret(errno);
    rule.set_args(Some(args));
    rule
}

fn profile(default: LinuxSeccompAction, architectures: Vec<Arch>, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(default)
        .set_architectures(Some(architectures))
        .set_syscalls(Some(rules));
    profile
}

#[test]
fn a_profile_without_rules() {
    for default in [LinuxSeccompAction::ScmpActAllow, LinuxSeccompAction::ScmpActKillProcess] {
        let profile = profile(default, vec![], vec![]);
        agree(&profile, &compile(&profile).unwrap(), [0; 6]);
    }
}

/// Answers that differ from number to number make the largest tree: jumps over more than 255 instructions.
#[test]
fn far_jumps() {
    use LinuxSeccompAction::ScmpActErrno;
    let names: Vec<String> = (0..470).filter_map(name_of).collect();
    let rules = names.iter().enumerate().map(|(i, name)| {
        let args = vec![arg(i % 6, LinuxSeccompOperator::ScmpCmpGt, i as u64, 0)];
        rule(
            &[name],
            ScmpActErrno,
            Some(100 + i as u32),
            if i % 2 == 0 { args } else { vec![] },
        )
    });
    let profile = profile(
        LinuxSeccompAction::ScmpActAllow,
        vec![Arch::ScmpArchX86],
        rules.collect(),
    );
    let program = compile(&profile).unwrap();
    assert!(program.instructions().len() > 2000);
    for args in [[0; 6], [100; 6], [u64::MAX; 6]] {
        agree(&profile, &program, args);
    }
}

fn name_of(nr: u32) -> Option<String> {
    default_names()
        .find(|name| syscalls::numbers(name).is_some_and(|n| n.x86_64 == Some(nr)))
        .map(str::to_owned)
}

fn default_names() -> impl Iterator<Item = &'static str> {
    static NAMES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let all = || {
        docker_default()
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|r| r.names().clone())
            .collect()
    };
    NAMES.get_or_init(all).iter().map(String::as_str)
}

#[test]
fn what_can_not_be_compiled() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActNotify};
    let read = |action, errno, args| profile(ScmpActAllow, vec![], vec![rule(&["read"], action, errno, args)]);
    let sixth = vec![arg(6, LinuxSeccompOperator::ScmpCmpEq, 0, 0)];
    assert!(matches!(
        compile(&read(ScmpActErrno, None, sixth)),
        Err(Error::Argument { index: 6, .. })
    ));
    assert!(matches!(
        compile(&read(ScmpActErrno, Some(5000), vec![])),
        Err(Error::Errno { errno: 5000 })
    ));
    assert!(matches!(
        compile(&read(ScmpActNotify, None, vec![])),
        Err(Error::Listener { .. })
    ));
    let many = (0..3000).map(|i| {
        rule(
            &["read"],
            ScmpActErrno,
            None,
            vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, i, 0)],
        )
    });
    assert!(matches!(
        compile(&profile(ScmpActAllow, vec![], many.collect())),
        Err(Error::TooLong { max: 4096, .. })
    ));
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        (0u32..64).prop_map(|shift| 1 << shift),
        (0u32..64).prop_map(|shift| (1 << shift) - 1),
        (0u64..4).prop_map(|n| n << 32),
    ]
}

fn any_arg() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator::*;
    let op = prop::sample::select(vec![
        ScmpCmpNe,
        ScmpCmpLt,
        ScmpCmpLe,
        ScmpCmpEq,
        ScmpCmpGe,
        ScmpCmpGt,
        ScmpCmpMaskedEq,
        ScmpCmpMaskedEq,
    ]);
    (0usize..3, op, any_number(), any_number()).prop_map(|(index, op, value, two)| arg(index, op, value, two))
}

fn any_action() -> impl Strategy<Value = (LinuxSeccompAction, Option<u32>)> {
    use LinuxSeccompAction::*;
    let action = prop::sample::select(vec![
        ScmpActAllow,
        ScmpActErrno,
        ScmpActErrno,
        ScmpActKill,
        ScmpActKillProcess,
        ScmpActLog,
        ScmpActTrap,
        ScmpActTrace,
    ]);
    (action, prop::option::of(0u32..4096))
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    // Few names, so that rules for the same call meet.
    let names = prop::collection::vec(
        prop::sample::select(vec![
            "read",
            "write",
            "open",
            "socket",
            "clone",
            "execve",
            "mseal",
            "nosuchcall",
            "chown32",
        ]),
        1..4,
    );
    (names, any_action(), prop::collection::vec(any_arg(), 0..4))
        .prop_map(|(names, (action, errno), args)| rule(&names, action, errno, args))
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let arch = prop::sample::select(vec![
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX86,
        Arch::ScmpArchX32,
        Arch::ScmpArchArm,
    ]);
    (
        any_action(),
        prop::collection::vec(arch, 0..4),
        prop::collection::vec(any_rule(), 0..12),
    )
        .prop_map(|((action, errno), architectures, rules)| {
            let mut profile = profile(action, architectures, rules);
            profile.set_default_errno_ret(errno);
            profile
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_profile_means_what_the_reference_says(
        profile in any_profile(),
        args in prop::collection::vec(any_number(), 24),
        which in prop::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let program = compile(&profile).unwrap();
        // The numbers that the rules are about, on every ABI, and their neighbours.
        let about: Vec<u32> = profile.syscalls().iter().flatten().flat_map(|r| r.names())
            .filter_map(|name| syscalls::numbers(name))
            .flat_map(|n| [n.x86_64, n.x86, n.x32, n.x32.map(|n| n + X32)])
            .flatten().chain([1, X32, u32::MAX - 1]).collect();
        let near = || about.iter().flat_map(|n| [n.wrapping_sub(1), *n, n + 1]);
        // Random numbers rarely meet a rule's: some arguments are taken from the rules, or lie next to theirs.
        let own: Vec<u64> = profile.syscalls().iter().flatten().flat_map(|r| r.args().iter().flatten())
            .flat_map(|a| [a.value(), a.value_two().unwrap_or(0), a.value().wrapping_add(1), a.value().wrapping_sub(1)])
            .collect();
        for (chunk, which) in args.chunks(6).zip(which.chunks(6)) {
            let mut args: [u64; 6] = chunk.try_into().unwrap();
            agree_on(&profile, &program, args, near());
            if !own.is_empty() {
                for (arg, index) in args.iter_mut().zip(which) {
                    *arg = *index.get(&own);
                }
                agree_on(&profile, &program, args, near());
            }
        }
    }
}
