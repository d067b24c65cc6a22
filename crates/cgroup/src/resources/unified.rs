//! v2 files by their names: `linux.resources.unified`.

use std::collections::HashMap;

use super::{Write, bad};
use crate::error::{Error, Result};
use crate::hierarchy::{Controller, Hierarchies, Version};

pub(super) fn plan(hierarchies: &Hierarchies, unified: &HashMap<String, String>) -> Result<Vec<Write>> {
    let mut keys: Vec<_> = unified.iter().collect();
    // One order on every run, whatever the map's.
    keys.sort();
    keys.into_iter()
        .map(|(key, value)| {
            let field = format!("linux.resources.unified[{key:?}]");
            let Some((prefix, _)) = key.split_once('.').filter(|_| !key.contains('/')) else {
                return Err(bad(
                    &field,
                    value,
                    "a key is the name of a cgroup v2 file, such as memory.high",
                ));
            };
            let unsupported = |why: String| Error::Unsupported {
                field: field.clone(),
                why,
            };
            let controller = match Controller::ALL.into_iter().find(|c| c.v2_name() == prefix) {
                None if prefix == "cgroup" && hierarchies.v2().is_some() => None,
                None => return Err(unsupported(format!("Hove knows no cgroup v2 controller {prefix}"))),
                Some(c) => match hierarchies.version(c) {
                    Some(Version::V2) => Some(c),
                    Some(Version::V1) => {
                        return Err(unsupported(format!("this node has the controller {c} on cgroup v1")));
                    }
                    None => return Err(Error::ControllerMissing { controller: c, field }),
                },
            };
            Ok(Write {
                controller,
                ..Write::new(Controller::Cpu, key, value, field)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, machines};
    use super::*;

    #[test]
    fn keys_are_files_of_v2_controllers() {
        let (v1, v2) = machines();
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let good = map(&[("memory.high", "1000"), ("io.weight", "default 50")]);
        assert_eq!(
            lines(&plan(&v2, &good).unwrap()),
            ["io.weight=default 50", "memory.high=1000"]
        );
        assert!(matches!(plan(&v1, &good), Err(Error::Unsupported { .. })));
        for wrong in ["memory", "../memory.max", "nothing.max"] {
            assert!(plan(&v2, &map(&[(wrong, "1")])).is_err(), "{wrong}");
        }
    }
}
