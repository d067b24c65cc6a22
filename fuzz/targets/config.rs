//! An OCI runtime config → a plan. Nothing panics; what is refused names its field; what is accepted ends with the exec, and
//! the way there has the steps without which a container would be none.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use starter::{Error, Executable, Request, Rootfs, RootfsMount, Stdio};

/// Steps of one plan at most, for a config of a few kilobytes.
const STEPS_MAX: usize = 100_000;

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = serde_json::from_slice(bytes) else {
        return;
    };
    let null = || std::fs::File::open("/dev/null").expect("/dev/null").into();
    let layers = [RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        // Text of the config's own makes the options: they come from outside as well.
        options: options(&spec),
    }];
    let empty = bytes.len() % 5 == 0;
    let request = Request {
        spec: &spec,
        executable: Executable::Path,
        rootfs: if empty { Rootfs::Empty } else { Rootfs::Mounts(&layers) },
        bundle: Path::new("/nonexistent/bundle"),
        stdio: Stdio::Fds {
            stdin: null(),
            stdout: null(),
            stderr: null(),
        },
        pinned: &|_| None,
        cgroup: None,
    };
    match starter::explain(request) {
        Ok(steps) => {
            assert!(steps.len() < STEPS_MAX, "{} steps", steps.len());
            assert_eq!(steps.last().map(String::as_str), Some("exec"));
            let place = |wanted: &str| steps.iter().position(|s| s.starts_with(wanted));
            let exec = steps.len() - 1;
            for needed in ["make itself untraceable", "close descriptors", "set capabilities", "drop capabilities"] {
                assert!(place(needed).is_some_and(|at| at < exec), "no {needed:?} in {steps:?}");
            }
            // Nothing of the host's /proc is written once the root is the container's.
            if let Some(root) = place("change the root") {
                assert!(!steps[root..].iter().any(|s| s.starts_with("set sysctl") || s.starts_with("set oom_score")));
            }
        }
        Err(Error::Spec { field, rule, .. }) => assert!(!field.is_empty() && !rule.is_empty()),
        Err(Error::Unsupported { field, what }) => assert!(!field.is_empty() && !what.is_empty()),
        Err(other) => assert!(!other.to_string().is_empty()),
    }
});

fn options(spec: &oci_spec::runtime::Spec) -> Vec<String> {
    static PLAIN: OnceLock<Vec<String>> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| {
        ["lowerdir=/s/2/fs:/s/1/fs", "upperdir=/s/3/fs", "workdir=/s/3/work"]
            .map(str::to_owned)
            .to_vec()
    });
    match spec.annotations().as_ref().and_then(|a| a.get("fuzz.options")) {
        Some(text) => text.split(';').map(str::to_owned).collect(),
        None => plain.clone(),
    }
}
