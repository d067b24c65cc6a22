//! Resource limits and the personality.

use oci_spec::runtime::{LinuxPersonalityDomain, PosixRlimitType, Process, Spec};
use rustix::process::Resource;

use super::step::Step;
use crate::{Error, Result};

pub(crate) fn resources(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        let (name, resource) = resource(limit.typ());
        if limit.soft() > limit.hard() {
            let value = format!("{}:{}", limit.soft(), limit.hard());
            return Err(Error::spec(
                format!("process.rlimits[{name}]"),
                value,
                "soft must not exceed hard",
            ));
        }
        // RLIM_INFINITY is all ones.
        let value = |v: u64| (v != u64::MAX).then_some(v);
        steps.push(Step::ResourceLimit {
            name,
            resource,
            soft: value(limit.soft()),
            hard: value(limit.hard()),
        });
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> (&'static str, Resource) {
    match kind {
        PosixRlimitType::RlimitCpu => ("RLIMIT_CPU", Resource::Cpu),
        PosixRlimitType::RlimitFsize => ("RLIMIT_FSIZE", Resource::Fsize),
        PosixRlimitType::RlimitData => ("RLIMIT_DATA", Resource::Data),
        PosixRlimitType::RlimitStack => ("RLIMIT_STACK", Resource::Stack),
        PosixRlimitType::RlimitCore => ("RLIMIT_CORE", Resource::Core),
        PosixRlimitType::RlimitRss => ("RLIMIT_RSS", Resource::Rss),
        PosixRlimitType::RlimitNproc => ("RLIMIT_NPROC", Resource::Nproc),
        PosixRlimitType::RlimitNofile => ("RLIMIT_NOFILE", Resource::Nofile),
        PosixRlimitType::RlimitMemlock => ("RLIMIT_MEMLOCK", Resource::Memlock),
        PosixRlimitType::RlimitAs => ("RLIMIT_AS", Resource::As),
        PosixRlimitType::RlimitLocks => ("RLIMIT_LOCKS", Resource::Locks),
        PosixRlimitType::RlimitSigpending => ("RLIMIT_SIGPENDING", Resource::Sigpending),
        PosixRlimitType::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        PosixRlimitType::RlimitNice => ("RLIMIT_NICE", Resource::Nice),
        PosixRlimitType::RlimitRtprio => ("RLIMIT_RTPRIO", Resource::Rtprio),
        PosixRlimitType::RlimitRttime => ("RLIMIT_RTTIME", Resource::Rttime),
    }
}

pub(crate) fn personality(spec: &Spec, steps: &mut Vec<Step>) {
    const PER_LINUX: u64 = 0;
    const PER_LINUX32: u64 = 8;
    if let Some(personality) = spec.linux().as_ref().and_then(|l| l.personality().as_ref()) {
        let persona = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => PER_LINUX,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        };
        steps.push(Step::Personality { persona });
    }
}
