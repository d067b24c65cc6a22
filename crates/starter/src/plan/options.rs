//! Mount options, as mount(8) and the OCI text spell them.

use sys::mount::Attributes;

/// What a mount's options come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// For the mount itself.
    pub attributes: Attributes,
    /// For it and all below it (`rro` and its kind), and the propagation if that is recursive.
    pub recursive: Attributes,
    /// `bind` or `rbind`.
    pub bind: Option<Recursive>,
    /// Options for the file system itself, in order.
    pub data: Vec<String>,
    /// `idmap` or `ridmap`.
    pub idmap: Option<Recursive>,
}

/// How deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursive {
    No,
    Yes,
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

const UNBINDABLE: u64 = 1 << 17;
const PRIVATE: u64 = 1 << 18;
const SLAVE: u64 = 1 << 19;
const SHARED: u64 = 1 << 20;

/// Reads the options. A word that is none of mount's own belongs to the file system.
pub(crate) fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        match option.as_str() {
            "defaults" | "" => {}
            "bind" => parsed.bind = Some(Recursive::No),
            "rbind" => parsed.bind = Some(Recursive::Yes),
            "idmap" => parsed.idmap = Some(Recursive::No),
            "ridmap" => parsed.idmap = Some(Recursive::Yes),
            word => {
                if let Some((propagation, recursive)) = propagation(word) {
                    parsed.attributes.propagation = 0;
                    parsed.recursive.propagation = 0;
                    match recursive {
                        true => parsed.recursive.propagation = propagation,
                        false => parsed.attributes.propagation = propagation,
                    }
                } else if let Some((set, clear)) = attribute(word) {
                    apply(&mut parsed.attributes, set, clear);
                } else if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
                    apply(&mut parsed.recursive, set, clear);
                } else {
                    parsed.data.push(word.to_owned());
                }
            }
        }
    }
    parsed
}

fn apply(attributes: &mut Attributes, set: u64, clear: u64) {
    attributes.set = attributes.set & !clear | set;
    // An atime mode replaces another as a whole: its field is both cleared and set.
    let replaced = if set & ATIME != 0 { ATIME } else { 0 };
    attributes.clear = attributes.clear & !set | clear | replaced;
}

/// `MS_…`, and whether for all mounts below.
pub(crate) fn propagation(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "private" => (PRIVATE, false),
        "rprivate" => (PRIVATE, true),
        "slave" => (SLAVE, false),
        "rslave" => (SLAVE, true),
        "shared" => (SHARED, false),
        "rshared" => (SHARED, true),
        "unbindable" => (UNBINDABLE, false),
        "runbindable" => (UNBINDABLE, true),
        _ => return None,
    })
}

/// Bits to set and to clear.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "noatime" => (NOATIME, 0),
        "strictatime" => (STRICTATIME, 0),
        "relatime" | "norelatime" | "atime" | "nostrictatime" => (0, ATIME),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_become_bits() {
        for (text, set, clear, rset, propagation, rpropagation) in [
            ("ro,nosuid,nodev,noexec", 0xf, 0, 0, 0, 0),
            ("ro,rw", 0, RDONLY, 0, 0, 0),
            ("rbind,rw,rprivate", 0, RDONLY, 0, 0, PRIVATE),
            ("bind,rro,rslave", 0, 0, RDONLY, 0, SLAVE),
            ("shared", 0, 0, 0, SHARED, 0),
            ("rshared,private", 0, 0, 0, PRIVATE, 0),
            ("noatime", NOATIME, ATIME, 0, 0, 0),
            ("noatime,relatime", 0, ATIME, 0, 0, 0),
            ("strictatime", STRICTATIME, ATIME, 0, 0, 0),
            ("relatime", 0, ATIME, 0, 0, 0),
        ] {
            let parsed = options(text);
            let found = (
                parsed.attributes.set,
                parsed.attributes.clear,
                parsed.recursive.set,
                parsed.attributes.propagation,
                parsed.recursive.propagation,
            );
            assert_eq!(found, (set, clear, rset, propagation, rpropagation), "{text}");
        }
    }

    #[test]
    fn the_rest_is_the_file_systems() {
        assert_eq!(
            options("nosuid,mode=755,size=65536k,newinstance").data,
            ["mode=755", "size=65536k", "newinstance"]
        );
        assert_eq!(options("rbind").bind, Some(Recursive::Yes));
        // Not the recursive form of "elatime" and its like.
        assert_eq!(options("relatime").recursive, Attributes::default());
    }
}
