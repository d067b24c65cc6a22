//! A root file system, as a shim is asked to mount it.

use image::Overlay;
use shim_api::RootMount;

use crate::spec::UserMaps;

/// The overlay of a snapshot, with mapped owners in a pod that has a user namespace.
pub(crate) fn mount(overlay: &Overlay, maps: Option<&UserMaps>) -> RootMount {
    let lower: Vec<_> = overlay.lower.iter().map(|p| p.to_string_lossy()).collect();
    let mut options = vec![
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", overlay.upper.display()),
        format!("workdir={}", overlay.work.display()),
    ];
    options.extend(maps.into_iter().flat_map(UserMaps::mount_options));
    RootMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options,
    }
}
