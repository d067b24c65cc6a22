//! What this kernel offers of what Hove uses. Only looks: nothing is made in order to find out.

use std::path::Path;

use serde::Serialize;

use crate::cgroup;

/// Something of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What Hove does with it.
    pub used_for: &'static str,
    /// Whether pods can't run without it.
    pub required: bool,
    /// Whether it is there; `None` if that can't be seen without trying.
    pub present: Option<bool>,
    /// What was seen.
    pub detail: String,
}

/// Looks at everything.
pub fn features() -> Vec<Feature> {
    let release = release();
    let version = parse_version(&release).unwrap_or((0, 0));
    let since = |name, used_for, required, major, minor| Feature {
        name,
        used_for,
        required,
        present: Some(version >= (major, minor)),
        detail: format!("Linux {major}.{minor} and newer; this is {release}"),
    };
    let mut features = vec![
        Feature {
            name: "Linux",
            used_for: "everything; 6.1 and newer is tested",
            required: true,
            present: Some(version >= (6, 1)),
            detail: release.clone(),
        },
        cgroups(),
        file_system("overlay", "containers' root file systems", true),
        file_system("tmpfs", "/dev, /dev/shm, memory volumes", true),
        file_system("mqueue", "/dev/mqueue", false),
        nf_tables(),
        path(
            "seccomp",
            "system call filters",
            "/proc/sys/kernel/seccomp/actions_avail",
            false,
        ),
        path("IPv6", "::1 inside pods", "/proc/sys/net/ipv6", false),
        path("AppArmor", "AppArmor profiles", "/sys/kernel/security/apparmor", false),
        path("SELinux", "SELinux labels", "/sys/fs/selinux/enforce", false),
        since(
            "clone3 into a cgroup",
            "starting a process in its cgroup at once (v2)",
            false,
            5,
            7,
        ),
        since("mount_setattr", "recursively read-only mounts", false, 5, 12),
        since("idmapped overlay", "user namespaces with shared images", false, 5, 19),
        since(
            "exit status by pidfd",
            "the exit code of a container whose supervisor died",
            false,
            6,
            15,
        ),
    ];
    for (kind, what) in [("user", "pods with hostUsers: false"), ("time", "nothing yet")] {
        let file = Path::new("/proc/self/ns").join(kind);
        let limit = std::fs::read_to_string(format!("/proc/sys/user/max_{kind}_namespaces")).unwrap_or_default();
        features.push(Feature {
            name: if kind == "user" {
                "user namespaces"
            } else {
                "time namespaces"
            },
            used_for: what,
            required: false,
            present: Some(file.exists() && limit.trim() != "0"),
            detail: format!("at most {}", limit.trim()),
        });
    }
    features
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn cgroups() -> Feature {
    let hierarchies = cgroup::hierarchies().unwrap_or_default();
    let (v1, v2) = hierarchies
        .iter()
        .fold((0, 0), |(v1, v2), hierarchy| match hierarchy.fs_type.as_str() {
            "cgroup2" => (v1, v2 + 1),
            _ => (v1 + 1, v2),
        });
    let detail = match (v1, v2) {
        (0, 0) => "none is mounted".to_owned(),
        (0, _) => "v2".to_owned(),
        (n, 0) => format!("v1, {n} hierarchies"),
        (n, _) => format!("hybrid: {n} v1 hierarchies and v2"),
    };
    Feature {
        name: "cgroups",
        used_for: "limits, killing, accounting",
        required: true,
        present: Some(v1 + v2 > 0),
        detail,
    }
}

fn file_system(name: &'static str, used_for: &'static str, required: bool) -> Feature {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let present = known
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(name));
    // One that is a module shows only once it is loaded.
    let module = module_path(name).is_some();
    let detail = match (present, module) {
        (true, _) => "in /proc/filesystems",
        (false, true) => "a module, not loaded yet",
        (false, false) => "not in /proc/filesystems",
    };
    Feature {
        name,
        used_for,
        required,
        present: Some(present || module),
        detail: detail.to_owned(),
    }
}

fn module_path(name: &str) -> Option<String> {
    let list = std::fs::read_to_string(format!("/lib/modules/{}/modules.dep", release())).ok()?;
    let file = |line: &str| line.split(':').next().map(str::to_owned);
    list.lines().filter_map(file).find(|path| {
        path.rsplit('/')
            .next()
            .and_then(|file| file.split('.').next())
            .is_some_and(|found| found.replace('-', "_") == name)
    })
}

fn nf_tables() -> Feature {
    let (present, detail) = match sys::netfilter::tables() {
        Ok(tables) => (true, format!("{} tables", tables.len())),
        Err(error) => (false, error.to_string()),
    };
    let used_for = "host ports, masquerading, the loopback guard";
    Feature {
        name: "nf_tables",
        used_for,
        required: true,
        present: Some(present),
        detail,
    }
}

fn path(name: &'static str, used_for: &'static str, path: &str, required: bool) -> Feature {
    let present = Path::new(path).exists();
    let detail = if present { path.to_owned() } else { format!("no {path}") };
    Feature {
        name,
        used_for,
        required,
        present: Some(present),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(parse_version("x"), None);
    }

    #[test]
    fn what_is_required_has_a_verdict() {
        let features = features();
        assert!(features.iter().filter(|f| f.required).all(|f| f.present.is_some()));
        assert!(features.iter().any(|f| f.name == "cgroups"));
    }
}
