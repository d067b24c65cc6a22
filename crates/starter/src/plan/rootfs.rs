//! The root file system, mounted in the container's own mount namespace only.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::mount::MountFlags;

use super::idmap::{self, Idmaps};
use super::options::{self, Recursive};
use super::step::{Filesystem, Step};
use super::text::{absolute, c_path, c_string};
use crate::request::{Rootfs, RootfsMount};
use crate::{Error, Result};

/// mount(2) copies its options into one page.
const MAX_DATA: usize = 4095;

pub(crate) fn mount(rootfs: Rootfs<'_>, bundle: &Path, idmaps: &mut Idmaps, steps: &mut Vec<Step>) -> Result<()> {
    let bundle = std::path::absolute(bundle).map_err(|e| Error::spec("bundle", bundle.display(), e.to_string()))?;
    let target = c_path("bundle", &bundle.join("rootfs"))?;
    match rootfs {
        Rootfs::Empty => {
            let target = c_path("bundle", &bundle)?;
            steps.push(Step::EmptyRoot { target: target.clone() });
            steps.push(Step::OpenRoot { path: target });
        }
        Rootfs::Directory(source) => {
            let source =
                std::path::absolute(&source).map_err(|e| Error::spec("rootfs", source.display(), e.to_string()))?;
            let source = absolute("rootfs", &source)?;
            // Onto itself: pivot_root wants a mount point, and this one is there.
            steps.push(Step::BindRoot {
                target: source.clone(),
                source: source.clone(),
                recursive: true,
                attributes: Default::default(),
            });
            steps.push(Step::OpenRoot { path: source });
        }
        Rootfs::Mounts(mounts) => {
            let mut opened = false;
            for (i, mount) in mounts.iter().enumerate() {
                let field = format!("rootfs[{i}]");
                if mount.target.trim_matches('/').is_empty() {
                    whole(&field, mount, target.clone(), idmaps, steps)?;
                } else {
                    if !opened {
                        steps.push(Step::OpenRoot { path: target.clone() });
                        opened = true;
                    }
                    steps.push(part(&field, mount)?);
                }
            }
            if mounts.is_empty() {
                // The caller has put the files there.
                steps.push(Step::BindRoot {
                    target: target.clone(),
                    source: target.clone(),
                    recursive: true,
                    attributes: Default::default(),
                });
            }
            if !opened {
                steps.push(Step::OpenRoot { path: target });
            }
        }
    }
    Ok(())
}

/// A mount that is the root.
fn whole(field: &str, mount: &RootfsMount, target: CString, idmaps: &mut Idmaps, steps: &mut Vec<Step>) -> Result<()> {
    let (options, maps) = idmap::of_options(field, &mount.options)?;
    let parsed = options::parse(&options);
    if mount.kind == "bind" || parsed.bind.is_some() {
        let source = absolute(&format!("{field}.source"), Path::new(&mount.source))?;
        if let Some(maps) = maps {
            // On itself: what is bound next is this mapped copy.
            steps.push(Step::IdmapLayer {
                path: source.clone(),
                idmap: idmaps.number(maps),
            });
        }
        steps.push(Step::BindRoot {
            source,
            recursive: parsed.bind != Some(Recursive::No),
            attributes: parsed.attributes,
            target,
        });
        return Ok(());
    }
    let flags = mount_flags(parsed.attributes.set | parsed.recursive.set);
    if mount.kind == "overlay" {
        if let Some(maps) = maps {
            map_layers(field, &parsed.data, maps, idmaps, steps)?;
        }
        let (base, data) = overlay(&parsed.data);
        if data.len() > MAX_DATA {
            let rule = format!("the layers' paths must fit {MAX_DATA} bytes");
            return Err(Error::spec(
                format!("{field}.options"),
                format!("{} bytes", data.len()),
                rule,
            ));
        }
        steps.push(Step::MountOverlay {
            base: c_string(field, &base)?,
            data: c_string(field, &data)?,
            target,
            flags,
        });
        return Ok(());
    }
    if maps.is_some() {
        let rule = "only an overlay's or a bind mount's ids can be mapped";
        return Err(Error::spec(format!("{field}.options"), "uidmap", rule));
    }
    steps.push(Step::MountRoot {
        kind: c_string(field, &mount.kind)?,
        source: c_string(field, &mount.source)?,
        data: c_string(field, &parsed.data.join(","))?,
        target,
        flags,
    });
    Ok(())
}

/// An overlay for a user namespace: the image's layers are shown with mapped owners (each is covered by a mapped copy of
/// itself, in this mount namespace only; overlayfs takes that since Linux 5.19). The container's own layer is not mapped: overlayfs
/// works in it as the host's root, which no map of a container's knows; what the container makes has its ids from outside
/// there. Only its root directory is given to the container's root.
fn map_layers(
    field: &str,
    options: &[String],
    maps: sys::userns::Maps,
    idmaps: &mut Idmaps,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let of = |key: &str| options.iter().find_map(|o| o.strip_prefix(key));
    let (uid, gid) = (
        idmap::root_of("uidmap", &maps.uid)?,
        idmap::root_of("gidmap", &maps.gid)?,
    );
    let number = idmaps.number(maps);
    for layer in of("lowerdir=").unwrap_or_default().split(':').filter(|l| !l.is_empty()) {
        if layer.contains('\\') {
            let rule = "an escaped layer can't be mapped";
            return Err(Error::spec(format!("{field}.options"), layer, rule));
        }
        steps.push(Step::IdmapLayer {
            path: absolute(&format!("{field}.options"), Path::new(layer))?,
            idmap: number,
        });
    }
    if let Some(upper) = of("upperdir=") {
        steps.push(Step::OwnUpper {
            path: absolute(&format!("{field}.options"), Path::new(upper))?,
            uid,
            gid,
        });
    }
    Ok(())
}

/// A mount below the root.
fn part(field: &str, mount: &RootfsMount) -> Result<Step> {
    let parsed = options::parse(&mount.options);
    if mount.kind == "bind" || parsed.bind.is_some() || mount.kind == "overlay" {
        return Err(Error::unsupported(
            field,
            format!("a {} mount below the root", mount.kind),
        ));
    }
    let mut parameters = Vec::new();
    for option in &parsed.data {
        parameters.push(match option.split_once('=') {
            Some((key, value)) => (c_string(field, key)?, Some(c_string(field, value)?)),
            None => (c_string(field, option)?, None),
        });
    }
    Ok(Step::Mount(Box::new(Filesystem {
        kind: c_string(field, &mount.kind)?,
        source: Some(c_string(field, &mount.source)?),
        parameters,
        attributes: parsed.attributes.set,
        propagation: 0,
        destination: c_string(field, &mount.target)?,
    })))
}

/// The attributes' bits and mount(2)'s are the same for what matters here, but for the atime modes.
fn mount_flags(attributes: u64) -> MountFlags {
    let mut flags = MountFlags::from_bits_retain((attributes & 0xf) as u32);
    if attributes & 0x10 != 0 {
        flags |= MountFlags::NOATIME;
    }
    flags
}

/// An overlay's options, with the directories relative to the one that all of them share: with many layers their
/// absolute paths would not fit. Returns that directory (to be entered first) and the options.
fn overlay(options: &[String]) -> (String, String) {
    const DIRECTORIES: [&str; 3] = ["lowerdir=", "upperdir=", "workdir="];
    let directories = || {
        options
            .iter()
            .filter_map(|o| DIRECTORIES.iter().find_map(|d| o.strip_prefix(d)))
            .flat_map(|v| v.split(':'))
    };
    // A backslash escapes a colon or a comma in a name: left as it is, in full.
    let plain = directories().all(|d| d.starts_with('/') && !d.contains('\\'));
    let base = match plain {
        true => shared_directory(directories()),
        false => "/",
    };
    let short = |path: &str| match plain {
        true => path[base.len()..].trim_start_matches('/').to_owned(),
        false => path.to_owned(),
    };
    let option = |option: &String| match DIRECTORIES.iter().find(|d| option.starts_with(*d)) {
        Some(key) => {
            let value: Vec<_> = option[key.len()..].split(':').map(short).collect();
            format!("{key}{}", value.join(":"))
        }
        None => option.clone(),
    };
    (
        base.to_owned(),
        options.iter().map(option).collect::<Vec<_>>().join(","),
    )
}

/// The longest directory that is a proper ancestor of every path.
fn shared_directory<'a>(mut paths: impl Iterator<Item = &'a str>) -> &'a str {
    fn parent(path: &str) -> &str {
        match path.trim_end_matches('/').rfind('/') {
            Some(0) | None => "/",
            Some(at) => &path[..at],
        }
    }
    let mut shared = paths.next().map_or("/", parent);
    for path in paths {
        while shared != "/"
            && !path
                .strip_prefix(shared)
                .is_some_and(|rest| rest.trim_end_matches('/').len() > 1 && rest.starts_with('/'))
        {
            shared = parent(shared);
        }
    }
    shared
}

/// `linux.rootfsPropagation`, for the new root.
pub(crate) fn propagation(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let Some(word) = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref()) else {
        return Ok(());
    };
    let field = "linux.rootfsPropagation";
    let words = [
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
        "runbindable",
    ];
    let known = words.into_iter().find(|w| *w == word);
    match (known, options::propagation(word)) {
        (Some(word), Some((propagation, recursive))) => {
            // Private is what it is already, and slave of a private mount is private.
            if word.contains("shared") || word.contains("unbindable") {
                steps.push(Step::RootPropagation {
                    word,
                    propagation,
                    recursive,
                });
            }
            Ok(())
        }
        _ if word.is_empty() => Ok(()),
        _ => Err(Error::spec(
            field,
            word,
            "must be private, slave, shared or unbindable, or one of them with r",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn layers_are_named_from_the_directory_they_share() {
        for (options, base, data) in [
            (
                &["lowerdir=/s/2/fs:/s/1/fs", "upperdir=/s/3/fs", "workdir=/s/3/work"][..],
                "/s",
                "lowerdir=2/fs:1/fs,upperdir=3/fs,workdir=3/work",
            ),
            (
                &["lowerdir=/a/b", "upperdir=/c/d", "workdir=/c/w"],
                "/",
                "lowerdir=a/b,upperdir=c/d,workdir=c/w",
            ),
            (&["lowerdir=/s/1:/s/12", "volatile"], "/s", "lowerdir=1:12,volatile"),
            (&["lowerdir=/s/1:/s/1/x"], "/s", "lowerdir=1:1/x"),
            (
                &["lowerdir=/s/a\\:b", "upperdir=/s/u"],
                "/",
                "lowerdir=/s/a\\:b,upperdir=/s/u",
            ),
        ] {
            assert_eq!(
                overlay(&strings(options)),
                (base.to_owned(), data.to_owned()),
                "{options:?}"
            );
        }
    }
}
