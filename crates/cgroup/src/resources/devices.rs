//! Which device nodes may be made, read and written: `linux.resources.devices`.
//!
//! The rules apply in their order, the last that matches wins. v1 has files that take them one by one. v2 has an
//! eBPF program that the kernel asks on each access.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use sys::bpf::Instruction;

use super::{Write, bad};
use crate::error::{Error, Result};
use crate::hierarchy::Controller;

const FIELD: &str = "linux.resources.devices";

/// A rule, checked: `None` stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Char,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    read: bool,
    write: bool,
    mknod: bool,
}

impl Access {
    const ALL: Access = Access {
        read: true,
        write: true,
        mknod: true,
    };
}

fn check(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Char),
        LinuxDeviceType::P => return Err(bad(FIELD, "p", "a rule's type is a, b or c: FIFOs are no devices")),
    };
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n)
            .map(Some)
            .map_err(|_| bad(FIELD, n, "a device number is -1 (any) or positive")),
    };
    let mut access = Access {
        read: false,
        write: false,
        mknod: false,
    };
    match rule.access().as_deref() {
        None | Some("") => access = Access::ALL,
        Some(text) => {
            for c in text.chars() {
                match c {
                    'r' => access.read = true,
                    'w' => access.write = true,
                    'm' => access.mknod = true,
                    _ => return Err(bad(FIELD, text, "an access is made of r, w and m")),
                }
            }
        }
    }
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major,
        minor,
        access,
    })
}

/// The v1 files' words. Both a kind of its own are needed where the rule has numbers or accesses but no kind: the
/// kernel takes `a` for everything and ignores the rest of such a line.
pub(super) fn plan_v1(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Write>> {
    let mut plan = Vec::new();
    for rule in rules {
        let rule = check(rule)?;
        let everything =
            rule.kind.is_none() && rule.major.is_none() && rule.minor.is_none() && rule.access == Access::ALL;
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        if everything {
            plan.push(Write::new(Controller::Devices, file, "a", FIELD));
            continue;
        }
        let kinds = rule.kind.map_or(vec![Kind::Block, Kind::Char], |k| vec![k]);
        for kind in kinds {
            let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
            let letter = if kind == Kind::Block { 'b' } else { 'c' };
            let mut access = String::new();
            for (set, letter) in [
                (rule.access.read, 'r'),
                (rule.access.write, 'w'),
                (rule.access.mknod, 'm'),
            ] {
                access.extend(set.then_some(letter));
            }
            let value = format!("{letter} {}:{} {access}", number(rule.major), number(rule.minor));
            plan.push(Write::new(Controller::Devices, file, value, FIELD));
        }
    }
    Ok(plan)
}

/// The rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`: returns 1 to allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

// The bits of an access in the program's context (linux/bpf.h).
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Registers: the result, the context, and what the program keeps.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The accesses that are asked for and that no rule has allowed yet.
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_NOT_EQUAL: u8 = 0x56;
const JUMP_IF_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// Compiles the rules for v2. From the last rule to the first, since the last that matches wins; an access of several
/// kinds (reading and writing) needs each of them. What no rule is about is allowed, as it is on v1.
pub(super) fn compile_v2(rules: &[LinuxDeviceCgroup]) -> Result<Program> {
    let rules = rules.iter().map(check).collect::<Result<Vec<_>>>()?;
    let verdict = |allow: bool| {
        [
            instruction(SET, RESULT, 0, 0, i32::from(allow)),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    };
    let mut program = vec![
        // The context: kind in the lower 16 bits of a word, access in the upper; major; minor.
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(COPY, WANTED, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, WANTED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let kind = rule.kind.map(|k| match k {
            Kind::Block => 1,
            Kind::Char => 2,
        });
        let access = [
            (rule.access.mknod, MKNOD),
            (rule.access.read, READ),
            (rule.access.write, WRITE),
        ];
        let access: i32 = access.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
        let all = rule.access == Access::ALL;
        let mut body = Vec::new();
        match (rule.allow, all) {
            (_, true) => body.extend(verdict(rule.allow)),
            (true, false) => {
                body.push(instruction(AND, WANTED, 0, 0, !access));
                body.push(instruction(JUMP_IF_NOT_EQUAL, WANTED, 0, 2, 0));
                body.extend(verdict(true));
            }
            (false, false) => {
                body.push(instruction(JUMP_IF_ANY_BIT, WANTED, 0, 1, access));
                body.push(instruction(JUMP, 0, 0, 2, 0));
                body.extend(verdict(false));
            }
        }
        let number = |n: Option<u32>| n.map(|n| n as i32);
        let tests: Vec<(u8, i32)> = [(KIND, kind), (MAJOR, number(rule.major)), (MINOR, number(rule.minor))]
            .into_iter()
            .filter_map(|(register, wanted)| Some((register, wanted?)))
            .collect();
        for (i, (register, wanted)) in tests.iter().enumerate() {
            // Past the remaining tests and the body.
            let past = tests.len() - i - 1 + body.len();
            program.push(instruction(JUMP_IF_NOT_EQUAL, *register, 0, past as i16, *wanted));
        }
        program.extend(body);
        if tests.is_empty() && all {
            // It decides everything; the kernel refuses a program with instructions that are never reached.
            return Ok(Program(program));
        }
    }
    program.extend(verdict(true));
    Ok(Program(program))
}

/// Attaches the program to the cgroup, in place of an earlier one.
pub(super) fn attach_v2(dir: &Path, program: &Program) -> Result<()> {
    let refused = |source| Error::Refused {
        field: FIELD.to_owned(),
        source,
    };
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let cgroup = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())
        .map_err(|e| sys::Error::new(format_args!("open({dir:?}, O_DIRECTORY)"), e))?;
    let program = sys::bpf::load_device_program(&program.0).map_err(refused)?;
    sys::bpf::attach_device_program(cgroup.as_fd(), program.as_fd()).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::super::tests::lines;
    use super::*;

    fn rule(
        allow: bool,
        typ: LinuxDeviceType,
        major: Option<i64>,
        minor: Option<i64>,
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    }

    #[test]
    fn v1_lines() {
        let rules = [
            rule(false, LinuxDeviceType::A, None, None, "rwm"),
            rule(true, LinuxDeviceType::C, None, None, "m"),
            rule(true, LinuxDeviceType::C, Some(1), Some(3), "rwm"),
            rule(true, LinuxDeviceType::B, Some(8), Some(-1), "r"),
            rule(true, LinuxDeviceType::A, None, None, "m"),
        ];
        assert_eq!(
            lines(&plan_v1(&rules).unwrap()),
            [
                "devices.deny=a",
                "devices.allow=c *:* m",
                "devices.allow=c 1:3 rwm",
                "devices.allow=b 8:* r",
                "devices.allow=b *:* m",
                "devices.allow=c *:* m",
            ]
        );
    }

    #[test]
    fn refused() {
        for wrong in [
            rule(true, LinuxDeviceType::C, Some(-2), None, "r"),
            rule(true, LinuxDeviceType::C, None, None, "rx"),
            rule(true, LinuxDeviceType::P, None, None, "r"),
        ] {
            assert!(matches!(plan_v1(&[wrong]), Err(Error::BadValue { .. })));
        }
    }
    /// Runs a program as the kernel would; panics on what its verifier refuses.
    fn run(program: &Program, kind: u32, major: u32, minor: u32, access: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0u64; 11];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers,
                offset,
                immediate,
            } = program.0[at];
            at += 1;
            let (to, from) = ((registers & 15) as usize, (registers >> 4) as usize);
            let skip = |holds: bool| if holds { offset as usize } else { 0 };
            match code {
                LOAD_WORD => r[to] = u64::from(context[offset as usize / 4]),
                COPY => r[to] = r[from],
                SET => r[to] = immediate as u64,
                AND => r[to] = u64::from(r[to] as u32 & immediate as u32),
                SHIFT_RIGHT => r[to] >>= immediate,
                JUMP => at += offset as usize,
                JUMP_IF_NOT_EQUAL => at += skip(r[to] as u32 != immediate as u32),
                JUMP_IF_ANY_BIT => at += skip(r[to] as u32 & immediate as u32 != 0),
                EXIT => return r[0],
                _ => panic!("operation {code:#x}"),
            }
        }
    }

    /// For each kind of access the last rule about it; all must be allowed.
    fn allowed(rules: &[LinuxDeviceCgroup], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        [(MKNOD, 'm'), (READ, 'r'), (WRITE, 'w')]
            .iter()
            .filter(|(bit, _)| access & *bit as u32 != 0)
            .all(|(_, letter)| {
                let about = |rule: &&LinuxDeviceCgroup| {
                    let is = |wanted: Option<i64>, n: u32| wanted.is_none_or(|w| w == -1 || w == i64::from(n));
                    let kind_is = match rule.typ() {
                        Some(LinuxDeviceType::B) => kind == 1,
                        Some(LinuxDeviceType::C) => kind == 2,
                        _ => true,
                    };
                    let accesses = rule.access().clone().unwrap_or_default();
                    kind_is && is(rule.major(), major) && is(rule.minor(), minor) && accesses.contains(*letter)
                };
                rules.iter().rev().find(about).is_none_or(|rule| rule.allow())
            })
    }

    #[test]
    fn v2_programs_mean_what_the_rules_say() {
        // A fixed sequence of pseudo-random numbers (Knuth's MMIX multiplier), so that a failure repeats.
        let mut state = 1u64;
        let mut pick = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..2000 {
            let rules: Vec<_> = (0..pick(8))
                .map(|_| {
                    let kinds = [LinuxDeviceType::A, LinuxDeviceType::B, LinuxDeviceType::C];
                    let numbers = [None, Some(-1), Some(1), Some(8), Some(0xffff_ffff)];
                    let accesses = ["r", "w", "m", "rw", "rm", "wm", "rwm", "rwm", "rwm"];
                    let (kind, access) = (kinds[pick(3) as usize], accesses[pick(9) as usize]);
                    let (major, minor) = (numbers[pick(5) as usize], numbers[pick(5) as usize]);
                    rule(pick(2) == 0, kind, major, minor, access)
                })
                .collect();
            let program = compile_v2(&rules).unwrap();
            for kind in 1..3 {
                for major in [1, 8, 0xffff_ffff] {
                    for minor in [1, 3, 8] {
                        for access in 1..8 {
                            let expected = u64::from(allowed(&rules, kind, major, minor, access));
                            let got = run(&program, kind, major, minor, access);
                            assert_eq!(got, expected, "{rules:?} {kind} {major}:{minor} {access}");
                        }
                    }
                }
            }
        }
    }
}
