//! A handler that is another vendor's shim (`containerd-shim-runc-v2` and its like): how the node's configuration names it, and
//! how it is told its options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use containerd_shim_protos::shim::oci::Options as RuncOptions;
use protobuf::Message;
use protobuf::rt::WireType;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};

/// The type of the options that runc's shims understand, and with them every OCI runtime that stands in runc's place.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

/// The type of the options that all others understand: where their configuration is, or the configuration itself.
const GENERIC_OPTIONS: &str = "runtimeoptions.v1.Options";

/// The fields of [`GENERIC_OPTIONS`], by their numbers.
const GENERIC_FIELDS: [(&str, u32); 3] = [("TypeUrl", 1), ("ConfigPath", 2), ("ConfigBody", 3)];

/// Another vendor's shim, as the configuration has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// The program: a path, or a name to be looked up in PATH.
    pub shim: PathBuf,
    /// Its options, under the names that containerd's configuration gives them.
    #[serde(default)]
    pub options: BTreeMap<String, Setting>,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// `SystemdCgroup = true`
    Switch(bool),
    /// `IoUid = 1000`
    Number(u32),
    /// `BinaryName = "crun"`
    Text(String),
}

/// An option that can't be told the shim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("options.{name}: {why}")]
pub struct OptionError {
    name: String,
    why: String,
}

impl Handler {
    /// Where a sandbox's directory says that its containers are another shim's.
    pub fn file(sandbox_dir: &Path) -> PathBuf {
        sandbox_dir.join("handler.json")
    }

    /// The options as the shim wants them. `state`: where an OCI runtime is to keep its own, unless `Root` says otherwise.
    pub fn options(&self, state: &Path) -> Result<Any, OptionError> {
        if self.is_runc() {
            self.runc_options(state)
        } else {
            self.generic_options()
        }
    }

    /// Whether it is runc's shim: others have configurations of their own.
    fn is_runc(&self) -> bool {
        let name = self.shim.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("containerd-shim-runc-")
    }

    fn runc_options(&self, state: &Path) -> Result<Any, OptionError> {
        let mut options = RuncOptions::new();
        options.root = state.to_string_lossy().into_owned();
        for (name, setting) in &self.options {
            let refuse = |why: &str| OptionError {
                name: name.clone(),
                why: why.into(),
            };
            match (name.as_str(), setting) {
                ("NoPivotRoot", Setting::Switch(value)) => options.no_pivot_root = *value,
                ("NoNewKeyring", Setting::Switch(value)) => options.no_new_keyring = *value,
                ("SystemdCgroup", Setting::Switch(value)) => options.systemd_cgroup = *value,
                ("IoUid", Setting::Number(value)) => options.io_uid = *value,
                ("IoGid", Setting::Number(value)) => options.io_gid = *value,
                ("BinaryName", Setting::Text(value)) => options.binary_name = value.clone(),
                ("Root", Setting::Text(value)) => options.root = value.clone(),
                ("NoPivotRoot" | "NoNewKeyring" | "SystemdCgroup", _) => return Err(refuse("it is true or false")),
                ("IoUid" | "IoGid", _) => return Err(refuse("it is a number")),
                ("BinaryName" | "Root", _) => return Err(refuse("it is a text")),
                _ => {
                    return Err(refuse(
                        "runc's shim has no such option (it has BinaryName, Root, SystemdCgroup, NoPivotRoot, \
                         NoNewKeyring, IoUid and IoGid)",
                    ));
                }
            }
        }
        // A message in memory that is far below the limits of the encoding.
        let value = options.write_to_bytes().unwrap_or_default();
        Ok(any(RUNC_OPTIONS, value))
    }

    fn generic_options(&self) -> Result<Any, OptionError> {
        let mut value = Vec::new();
        for (name, setting) in &self.options {
            let refuse = |why: String| OptionError {
                name: name.clone(),
                why,
            };
            let field = GENERIC_FIELDS.iter().find(|(known, _)| known == name);
            let (_, number) = field.ok_or_else(|| {
                refuse("this shim is told ConfigPath, ConfigBody and TypeUrl; what else it can do stands in its own configuration".into())
            })?;
            let Setting::Text(text) = setting else {
                return Err(refuse("it is a text".into()));
            };
            put_text(&mut value, *number, text);
        }
        Ok(any(GENERIC_OPTIONS, value))
    }
}

/// A field of text, as protobuf encodes it.
fn put_text(to: &mut Vec<u8>, field: u32, text: &str) {
    put_varint(to, u64::from(field << 3 | WireType::LengthDelimited as u32));
    put_varint(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
}

fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any {
        type_url: type_url.into(),
        value,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(shim: &str, options: &[(&str, Setting)]) -> Handler {
        Handler {
            shim: shim.into(),
            options: options.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        }
    }

    #[test]
    fn runc_is_told_its_binary_and_where_its_state_is() {
        let crun = handler(
            "/usr/bin/containerd-shim-runc-v2",
            &[("BinaryName", Setting::Text("crun".into()))],
        );
        let any = crun.options(Path::new("/run/x")).unwrap();
        assert_eq!(any.type_url, RUNC_OPTIONS);
        let told = RuncOptions::parse_from_bytes(&any.value).unwrap();
        assert_eq!((told.binary_name.as_str(), told.root.as_str()), ("crun", "/run/x"));
    }

    #[test]
    fn others_are_told_where_their_configuration_is() {
        let kata = handler(
            "containerd-shim-kata-v2",
            &[("ConfigPath", Setting::Text("/etc/kata.toml".into()))],
        );
        let any = kata.options(Path::new("/run/x")).unwrap();
        assert_eq!(any.type_url, GENERIC_OPTIONS);
        assert_eq!(any.value, b"\x12\x0e/etc/kata.toml");
    }

    #[test]
    fn what_a_shim_does_not_know_is_refused_by_name() {
        for (shim, name, setting, expected) in [
            (
                "containerd-shim-runc-v2",
                "Binary",
                Setting::Text("crun".into()),
                "options.Binary: runc's shim has no such option",
            ),
            (
                "containerd-shim-runc-v2",
                "BinaryName",
                Setting::Switch(true),
                "options.BinaryName: it is a text",
            ),
            (
                "containerd-shim-kata-v2",
                "BinaryName",
                Setting::Text("x".into()),
                "options.BinaryName: this shim is told ConfigPath",
            ),
        ] {
            let refused = handler(shim, &[(name, setting)]).options(Path::new("/")).unwrap_err();
            assert!(refused.to_string().starts_with(expected), "{refused}");
        }
    }
}
