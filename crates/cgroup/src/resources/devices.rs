//! Which device nodes may be made, read and written: `linux.resources.devices`.
//!
//! The rules apply in their order, the last that matches wins. v1 has files that take them one by one. v2 has an
//! eBPF program that the kernel asks on each access.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

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

/// The rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {}

/// Compiles the rules for v2.
pub(super) fn compile_v2(rules: &[LinuxDeviceCgroup]) -> Result<Program> {
    for rule in rules {
        check(rule)?;
    }
    Err(Error::Unsupported {
        field: FIELD.to_owned(),
        why: "device rules on cgroup v2 are not implemented yet".to_owned(),
    })
}

/// Attaches the program to the cgroup.
pub(super) fn attach_v2(_dir: &Path, _program: &Program) -> Result<()> {
    Ok(())
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
}
