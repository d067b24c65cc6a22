//! Mapped ids: what a user namespace makes of the owners of files.
//!
//! Files on disk belong to the ids that their image or volume gave them. A process in a user namespace is another id
//! outside of it, so these files would be nobody's. An idmapped mount (Linux 5.12) shows each owner as the id that the
//! namespace maps it to, and nothing on disk changes. The kernel takes the map in the form of a user namespace.

use oci_spec::runtime::{LinuxIdMapping, Spec};
use sys::userns::Maps;

use crate::{Error, Result};

/// The maps that a plan needs namespaces for, each once.
#[derive(Debug, Default)]
pub(crate) struct Idmaps(Vec<Maps>);

impl Idmaps {
    /// The number under which the child will find this map's namespace.
    pub fn number(&mut self, maps: Maps) -> usize {
        if let Some(number) = self.0.iter().position(|known| *known == maps) {
            return number;
        }
        self.0.push(maps);
        self.0.len() - 1
    }

    pub fn into_maps(self) -> Vec<Maps> {
        self.0
    }
}

/// `linux.uidMappings` and `linux.gidMappings`: both or none.
pub(crate) fn of_container(spec: &Spec) -> Result<Option<Maps>> {
    let linux = spec.linux().as_ref();
    let uid = linux.and_then(|l| l.uid_mappings().as_deref());
    let gid = linux.and_then(|l| l.gid_mappings().as_deref());
    of("linux", uid, gid)
}

/// The `uidMappings` and `gidMappings` below `field`: both or none.
pub(crate) fn of(field: &str, uid: Option<&[LinuxIdMapping]>, gid: Option<&[LinuxIdMapping]>) -> Result<Option<Maps>> {
    let (uid, gid) = (uid.unwrap_or_default(), gid.unwrap_or_default());
    for (name, given, other) in [("uidMappings", uid, gid), ("gidMappings", gid, uid)] {
        if given.is_empty() && !other.is_empty() {
            let rule = "users and groups are mapped together";
            return Err(Error::spec(format!("{field}.{name}"), "nothing", rule));
        }
    }
    if uid.is_empty() {
        return Ok(None);
    }
    let lines = |list: &[LinuxIdMapping]| -> String {
        let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
        list.iter().map(line).collect()
    };
    Ok(Some(Maps {
        uid: lines(uid),
        gid: lines(gid),
    }))
}

/// The options `uidmap=INSIDE:OUTSIDE:COUNT` and `gidmap=…` of a root file system's mount, as containerd's snapshots have
/// them (several are separated by commas). Returns the other options, and the maps.
pub(crate) fn of_options(field: &str, options: &[String]) -> Result<(Vec<String>, Option<Maps>)> {
    let (mut uid, mut gid) = (String::new(), String::new());
    let mut others = Vec::with_capacity(options.len());
    for option in options {
        let (map, value) = match option.split_once('=') {
            Some(("uidmap", value)) => (&mut uid, value),
            Some(("gidmap", value)) => (&mut gid, value),
            _ => {
                others.push(option.clone());
                continue;
            }
        };
        for range in value.split(',') {
            let numbers: Option<Vec<u32>> = range.split(':').map(|n| n.parse().ok()).collect();
            match numbers.as_deref() {
                Some([inside, outside, count]) => *map += &format!("{inside} {outside} {count}\n"),
                _ => {
                    return Err(Error::spec(
                        format!("{field}.options"),
                        option,
                        "must be INSIDE:OUTSIDE:COUNT",
                    ));
                }
            }
        }
    }
    match (uid.is_empty(), gid.is_empty()) {
        (true, true) => Ok((others, None)),
        (false, false) => Ok((others, Some(Maps { uid, gid }))),
        _ => {
            let rule = "uidmap= and gidmap= come together";
            Err(Error::spec(format!("{field}.options"), options.join(","), rule))
        }
    }
}

/// What id 0 of a map is outside.
pub(crate) fn root_of(field: &str, map: &str) -> Result<u32> {
    let inside_zero = |line: &str| {
        let mut numbers = line.split(' ').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(0)), Some(Ok(outside))) => Some(outside),
            _ => None,
        }
    };
    map.lines().find_map(inside_zero).ok_or_else(|| {
        let map = map.trim_end().replace('\n', ", ");
        Error::spec(field, map, "must map id 0, or the container would have no root")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<(Vec<String>, Option<Maps>)> {
        of_options("rootfs[0]", &list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn maps_in_options() {
        let (others, maps) = options(&["lowerdir=/a", "uidmap=0:100:10,10:500:1", "gidmap=0:100:10"]).unwrap();
        assert_eq!(others, ["lowerdir=/a"]);
        let maps = maps.unwrap();
        assert_eq!(
            (maps.uid.as_str(), maps.gid.as_str()),
            ("0 100 10\n10 500 1\n", "0 100 10\n")
        );
        assert_eq!(options(&["ro"]).unwrap().1, None);
        for bad in [
            &["uidmap=0:1:1"][..],
            &["uidmap=0:1", "gidmap=0:1:1"],
            &["uidmap=", "gidmap=x:y:z"],
            &["uidmap=-1:0:1", "gidmap=0:0:1"],
        ] {
            assert!(options(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_root_of_a_map() {
        assert_eq!(root_of("x", "10 20 5\n0 700 10\n").unwrap(), 700);
        let error = root_of("x", "10 20 5\n").unwrap_err().to_string();
        assert!(error.contains("must map id 0"), "{error}");
    }

    #[test]
    fn the_same_map_needs_one_namespace() {
        let maps = |n: u32| Maps {
            uid: format!("0 {n} 1\n"),
            gid: "0 0 1\n".into(),
        };
        let mut idmaps = Idmaps::default();
        assert_eq!([1, 2, 1].map(|n| idmaps.number(maps(n))), [0, 1, 0]);
        assert_eq!(idmaps.into_maps().len(), 2);
    }
}
