//! The configuration file, and what flags, environment, file and defaults come to.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use image::registry::TrustRule;
use runtime::Handler;
use serde::Deserialize;
use sha2::Digest;

use crate::args::Places;

/// Where the configuration is when nobody says otherwise.
const CONFIG_FILE: &str = "/etc/hove/config.toml";

/// What dies with the boot, when nobody says otherwise.
const DEFAULT_STATE: &str = "/run/hove";

/// `/etc/hove/config.toml`. Everything has a default; what is not known is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    shim: Option<PathBuf>,
    runtime_endpoint: Option<String>,
    network: NetworkSection,
    cgroup: CgroupSection,
    cri: CriSection,
    sandbox: SandboxSection,
    handlers: BTreeMap<String, HandlerSection>,
    images: Images,
    registries: RegistriesSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NetworkSection {
    bridge: Option<String>,
    subnet: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CgroupSection {
    parent: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CriSection {
    show_local: bool,
    default_handler: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SandboxSection {
    image: Option<String>,
}

impl SandboxSection {
    /// A name that can't be one is said before the first pod needs it.
    fn image(self) -> Result<Option<String>> {
        let Some(name) = self.image.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        match name.parse::<image::Reference>() {
            Ok(_) => Ok(Some(name)),
            Err(error) => {
                bail!("[sandbox] image = {name:?}: {error}; leave it out for the pause that is a part of Hove")
            }
        }
    }
}

/// `[handlers.NAME]`: without a shim, Hove's own starter under another name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HandlerSection {
    shim: Option<PathBuf>,
    options: BTreeMap<String, shim_api::Setting>,
}

impl HandlerSection {
    fn handler(self, name: &str) -> Result<Handler> {
        let HandlerSection { shim, options } = self;
        match shim {
            Some(shim) => Ok(Handler::Shim(shim_api::Handler { shim, options })),
            None if options.is_empty() => Ok(Handler::Native),
            None => {
                bail!("[handlers.{name}]: options are a shim's; name it, such as shim = \"containerd-shim-runc-v2\"")
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistriesSection {
    hosts_dirs: Option<Vec<PathBuf>>,
}

/// What images may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Names of images that are never collected; with a star at the end, all that begin so.
    pub pinned: Vec<String>,
    /// What they may take on the disk, in bytes; without it, what there is.
    pub quota_bytes: Option<u64>,
    /// What they leave free of the disk, in bytes; without it, a twentieth of the disk, and 1 GiB at most.
    pub keep_free_bytes: Option<u64>,
    /// Which may come in from where.
    pub trust: Vec<TrustRule>,
}

/// A node, as it is set up. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What outlives a boot.
    pub root: PathBuf,
    /// What dies with the boot, and the sockets.
    pub state: PathBuf,
    /// The containers' logs.
    pub log_dir: PathBuf,
    /// The file that was asked for by name.
    pub config: Option<PathBuf>,
    /// The supervisor's program.
    pub shim: PathBuf,
    /// The CRI's socket of another runtime, which runs the node's own pods.
    pub runtime_endpoint: Option<String>,
    /// The bridge's name; the nf_tables table is named after it.
    pub bridge: String,
    /// The pods' addresses.
    pub subnet: String,
    /// The cgroup above all pods.
    pub cgroup_parent: String,
    /// Whether callers of the CRI's socket see the pods of the node's own engine. A kubelet would remove them.
    pub cri_shows_local: bool,
    /// Who runs pods' containers, by the names that runtime classes give.
    pub handlers: BTreeMap<String, Handler>,
    /// The one of a pod that names none.
    pub default_handler: String,
    /// The image whose program is a pod's first process, in place of the pause that is a part of Hove.
    pub sandbox_image: Option<String>,
    /// What images may do.
    pub images: Images,
    /// Directories of `REGISTRY/hosts.toml`, if other ones than the usual.
    pub hosts_dirs: Option<Vec<PathBuf>>,
}

impl Settings {
    /// Flags win over the environment, the environment over the file, the file over the defaults.
    pub fn resolve(places: &Places) -> Result<Settings> {
        Settings::resolve_with(places, |name| std::env::var_os(name))
    }

    fn resolve_with(places: &Places, environment: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
        let places = &with_environment(places, environment);
        let file = read(places.config.as_deref())?;
        let choose = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            let path = flag.clone().or(file).unwrap_or_else(|| default.into());
            std::path::absolute(&path).with_context(|| format!("the working directory of {}", path.display()))
        };
        let shim = match places.shim.clone().or(file.shim) {
            Some(path) => std::path::absolute(path)?,
            None => shim_beside_us()?,
        };
        let cgroup_parent = file.cgroup.parent.unwrap_or_else(|| "/hove".into());
        if !cgroup_parent.starts_with('/')
            || cgroup_parent.len() < 2
            || cgroup_parent.split('/').any(|part| part == "..")
        {
            bail!(
                "[cgroup] parent = {cgroup_parent:?}: want an absolute path below a cgroup hierarchy, such as \"/hove\""
            );
        }
        let state = choose(&places.state, file.state, DEFAULT_STATE)?;
        check_length(&state)?;
        let (bridge, subnet) = network_of(&state);
        let handlers = file.handlers.into_iter();
        let handlers = handlers.map(|(name, section)| Ok((name.clone(), section.handler(&name)?)));
        Ok(Settings {
            root: choose(&places.root, file.root, "/var/lib/hove")?,
            state,
            log_dir: choose(&places.log_dir, file.log_dir, "/var/log/pods")?,
            config: places.config.as_deref().map(std::path::absolute).transpose()?,
            shim,
            runtime_endpoint: places.runtime_endpoint.clone().or(file.runtime_endpoint),
            bridge: file.network.bridge.unwrap_or(bridge),
            subnet: file.network.subnet.unwrap_or(subnet),
            cgroup_parent,
            cri_shows_local: file.cri.show_local,
            handlers: handlers.collect::<Result<_>>()?,
            default_handler: file.cri.default_handler,
            sandbox_image: file.sandbox.image()?,
            images: file.images,
            hosts_dirs: file.registries.hosts_dirs,
        })
    }

    /// The Pod API's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.state.join("api.sock")
    }

    /// The CRI's socket.
    pub fn cri_socket(&self) -> PathBuf {
        self.state.join("hove.sock")
    }
}

/// The longest path of a socket: `sun_path` of unix(7), without its terminating zero.
const SOCKET_PATH_MAX: usize = 107;
/// What a state directory's longest path of a socket ends in: that of a sandbox's supervisor.
const LONGEST_SOCKET: &str = "/sandboxes/0123456789abcdef0123456789abcdef/shim.sock";

/// The kernel's limit is said before anything is made, with what helps.
fn check_length(state: &Path) -> Result<()> {
    let (length, limit) = (state.as_os_str().len(), SOCKET_PATH_MAX - LONGEST_SOCKET.len());
    if length > limit {
        bail!(
            "the state directory's path is too long: {} has {length} bytes, and the kernel's limit for the sockets in it \
             leaves {limit}; use a shorter --state, such as /run/NAME",
            state.display()
        );
    }
    Ok(())
}

/// A node's bridge and subnet, unless they are configured. A bridge has one node; so that nodes run side by side without
/// being told to, one with another state directory has another bridge. The same directory always gives the same; that two give
/// the same subnet is unlikely, and is then said when the second one opens its network.
fn network_of(state: &Path) -> (String, String) {
    if state == Path::new(DEFAULT_STATE) {
        return ("hove0".into(), "10.85.0.0/16".into());
    }
    let hash = sha2::Sha256::digest(state.as_os_str().as_encoded_bytes());
    // Fits a link's name (15 bytes). 10.128.0.0 to 10.247.0.0: away from the default one.
    let bridge = format!("hove-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
    (bridge, format!("10.{}.0.0/16", 128 + hash[4] % 120))
}

/// What flags do not say, the environment may. A variable that is empty says nothing.
fn with_environment(places: &Places, environment: impl Fn(&str) -> Option<OsString>) -> Places {
    let or = |flag: &Option<PathBuf>, name: &str| {
        let set = || environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        flag.clone().or_else(set)
    };
    Places {
        root: or(&places.root, "HOVE_ROOT"),
        state: or(&places.state, "HOVE_STATE"),
        log_dir: or(&places.log_dir, "HOVE_LOG_DIR"),
        config: or(&places.config, "HOVE_CONFIG"),
        shim: or(&places.shim, "HOVE_SHIM"),
        runtime_endpoint: places.runtime_endpoint.clone().or_else(|| {
            let set = environment("HOVE_RUNTIME_ENDPOINT").and_then(|value| value.into_string().ok());
            set.filter(|value| !value.is_empty())
        }),
    }
}

/// A file that is asked for must be there; the usual one need not.
fn read(asked: Option<&Path>) -> Result<File> {
    let path = asked.unwrap_or(Path::new(CONFIG_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound && asked.is_none() => Ok(File::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn parse(text: &str) -> Result<File> {
    toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))
}

fn shim_beside_us() -> Result<PathBuf> {
    let own = std::env::current_exe().context("/proc/self/exe")?;
    Ok(own.with_file_name("hove-shim"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_need_no_file() {
        let settings = Settings::resolve_with(&Places::default(), |_| None).unwrap();
        assert_eq!(settings.api_socket(), Path::new("/run/hove/api.sock"));
        assert_eq!(
            (settings.bridge.as_str(), settings.cgroup_parent.as_str()),
            ("hove0", "/hove")
        );
        assert!(settings.shim.ends_with("hove-shim"));
    }

    #[test]
    fn each_state_directory_has_a_bridge_of_its_own() {
        let of = |state: &str| {
            let places = Places {
                state: Some(state.into()),
                ..Default::default()
            };
            let settings = Settings::resolve_with(&places, |_| None).unwrap();
            (settings.bridge, settings.subnet)
        };
        assert_eq!(of("/run/hove").0, "hove0");
        assert_eq!(of("/tmp/one"), of("/tmp/one"));
        assert_ne!(of("/tmp/one").0, of("/tmp/two").0);
        assert!(of("/tmp/one").0.len() <= 15);
        assert!(of("/tmp/one").1.starts_with("10."));
    }

    #[test]
    fn a_state_directory_leaves_room_for_its_sockets() {
        let of = |length: usize| {
            let state = PathBuf::from(format!("/{}", "s".repeat(length - 1)));
            let places = Places {
                state: Some(state),
                ..Default::default()
            };
            Settings::resolve_with(&places, |_| None)
        };
        assert!(of(54).is_ok());
        let error = of(55).unwrap_err().to_string();
        assert!(
            error.contains("has 55 bytes") && error.contains("leaves 54; use a shorter --state"),
            "{error}"
        );
    }

    #[test]
    fn flags_win_over_the_environment_and_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.toml");
        std::fs::write(
            &config,
            "root = \"/r\"\nstate = \"/s\"\n[network]\nbridge = \"hove7\"\n",
        )
        .unwrap();
        let places = Places {
            state: Some("/t".into()),
            config: Some(config),
            ..Default::default()
        };
        let environment = |name: &str| match name {
            "HOVE_STATE" => Some("/e".into()),
            "HOVE_LOG_DIR" => Some("/logs".into()),
            "HOVE_ROOT" => Some("".into()),
            _ => None,
        };
        let settings = Settings::resolve_with(&places, environment).unwrap();
        assert_eq!((settings.root, settings.state), ("/r".into(), "/t".into()));
        assert_eq!(
            (settings.log_dir, settings.bridge),
            ("/logs".into(), "hove7".to_owned())
        );
    }

    #[test]
    fn handlers() {
        let text = "[cri]\ndefault_handler = \"crun\"\n[handlers.own]\n[handlers.crun]\n\
                    shim = \"containerd-shim-runc-v2\"\noptions = { BinaryName = \"crun\" }\n";
        let file = parse(text).unwrap();
        assert_eq!(file.cri.default_handler, "crun");
        let mut handlers = file
            .handlers
            .into_iter()
            .map(|(name, section)| section.handler(&name).unwrap());
        assert!(matches!(handlers.next(), Some(Handler::Shim(_))));
        assert_eq!(handlers.next(), Some(Handler::Native));
        let aimless = parse("[handlers.x]\noptions = { A = 1 }\n")
            .unwrap()
            .handlers
            .remove("x");
        let refused = aimless.unwrap().handler("x").unwrap_err().to_string();
        assert!(refused.contains("[handlers.x]"), "{refused}");
    }

    #[test]
    fn a_sandbox_image_is_a_name_of_an_image() {
        let of = |text: &str| parse(text).unwrap().sandbox.image();
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of("[sandbox]\nimage = \"\"\n").unwrap(), None);
        let named = of("[sandbox]\nimage = \"registry.k8s.io/pause:3.10\"\n").unwrap();
        assert_eq!(named.as_deref(), Some("registry.k8s.io/pause:3.10"));
        let refused = of("[sandbox]\nimage = \"Pause me\"\n").unwrap_err().to_string();
        assert!(refused.starts_with("[sandbox] image = \"Pause me\": "), "{refused}");
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let error = parse("[network]\nbrigde = \"x\"\n").unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("brigde") && error.contains("bridge"),
            "{error}"
        );
        assert!(parse("root = 7").is_err());
        let trust = "[[images.trust]]\nscope = \"quay.io\"\nrule = \"require\"\nkeys = [\"k.pem\"]\n";
        assert_eq!(parse(trust).unwrap().images.trust.len(), 1);
        assert!(parse(&trust.replace("require", "demand")).is_err());
        let missing = Places {
            config: Some("/no/such.toml".into()),
            ..Default::default()
        };
        assert!(
            Settings::resolve(&missing)
                .unwrap_err()
                .to_string()
                .contains("/no/such.toml")
        );
    }
}
