//! The devices that every container has, whatever its configuration says (OCI runtime spec, "Default Devices"): configurations
//! that deny all devices mean all others. Hove's own node lists them; containerd's do not, since runc adds them.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources};

/// null, zero, full, random, urandom; tty, console, ptmx; pts/*.
const DEFAULT: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// The resources, with rules for the default devices where others deny them.
pub fn with_default(resources: &LinuxResources) -> Cow<'_, LinuxResources> {
    let rules = resources.devices().as_deref().unwrap_or_default();
    if !rules.iter().any(|rule| !rule.allow()) {
        return Cow::Borrowed(resources);
    }
    let allows = |rule: &LinuxDeviceCgroup, (major, minor): (i64, Option<i64>)| {
        rule.allow() && rule.major() == Some(major) && rule.minor() == minor
    };
    let missing = DEFAULT
        .into_iter()
        .filter(|device| !rules.iter().any(|rule| allows(rule, *device)));
    let missing: Vec<_> = missing.map(rule).collect();
    if missing.is_empty() {
        return Cow::Borrowed(resources);
    }
    let mut resources = resources.clone();
    resources.set_devices(Some([rules, &missing].concat()));
    Cow::Owned(resources)
}

fn rule((major, minor): (i64, Option<i64>)) -> LinuxDeviceCgroup {
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(LinuxDeviceType::C)
        .major(major)
        .access("rwm");
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    // No field is required, so there is nothing that `build` could miss.
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(devices: serde_json::Value) -> LinuxResources {
        serde_json::from_value(serde_json::json!({ "devices": devices })).unwrap()
    }

    #[test]
    fn what_is_denied_with_all_others_is_allowed_again() {
        let denied = resources(serde_json::json!([{"allow": false, "access": "rwm"}]));
        let rules = with_default(&denied).devices().clone().unwrap();
        assert_eq!(rules.len(), 1 + DEFAULT.len());
        assert!(!rules[0].allow() && rules[1..].iter().all(LinuxDeviceCgroup::allow));
        let whole = resources(serde_json::to_value(&rules).unwrap());
        assert!(matches!(with_default(&whole), Cow::Borrowed(_)), "none is added twice");
    }

    #[test]
    fn who_may_have_all_needs_no_more() {
        let all = resources(serde_json::json!([{"allow": true, "access": "rwm"}]));
        assert!(matches!(with_default(&all), Cow::Borrowed(_)));
        assert!(matches!(with_default(&LinuxResources::default()), Cow::Borrowed(_)));
    }
}
