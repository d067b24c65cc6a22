//! What can be typed.

mod image;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use image::{Image, ImageFormat, ImportImage, Login, MountImage, PullImages, PushImage};

/// Pods on this machine, as Kubernetes runs them.
#[derive(Debug, Parser)]
#[command(name = "hove", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    pub places: Places,
    #[command(subcommand)]
    pub command: Command,
}

/// Where a node keeps its things. Nodes with different state directories run side by side.
///
/// The environment is read later ([`crate::config`]): clap would print what it holds into the usage of every mistake.
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Node")]
pub struct Places {
    /// What outlives a boot: images, volumes, objects [default: /var/lib/hove; env: HOVE_ROOT]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What dies with the boot, and the node's sockets [default: /run/hove; env: HOVE_STATE]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The containers' logs [default: /var/log/pods; env: HOVE_LOG_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The configuration [default: /etc/hove/config.toml, if it is there; env: HOVE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The supervisor's program [default: hove-shim beside hove; env: HOVE_SHIM]
    #[arg(long, global = true, value_name = "FILE")]
    pub shim: Option<PathBuf>,
    /// The CRI's socket of another runtime that is to run the pods, such as unix:///run/containerd/containerd.sock [env:
    /// HOVE_RUNTIME_ENDPOINT]
    #[arg(long, global = true, value_name = "ENDPOINT")]
    pub runtime_endpoint: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pod from a manifest, with its containers' output in front of you, until it ends or you press Ctrl-C
    Run(Run),
    /// Show pods
    #[command(subcommand)]
    Get(Get),
    /// Show all that is known about a pod: conditions, states, events
    #[command(subcommand)]
    Describe(Describe),
    /// Run a program in a container
    Exec(Exec),
    /// Show a container's output
    Logs(Logs),
    /// Take pods down, and wait until they are gone
    Delete(Delete),
    /// Manage the images on this node
    #[command(subcommand)]
    Image(Image),
    /// Show a pod's namespaces: whose they are, and which processes are in them
    Ns(Ns),
    /// Write an image of pause, for other runtimes
    PauseImage(PauseImage),
    /// Run the node. Commands start one by themselves where none runs
    Daemon(Daemon),
    /// Show the version
    Version,
}

#[derive(Debug, ClapArgs)]
pub struct Run {
    /// The manifest, in YAML or JSON; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Return when the pod runs, and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// The pod's namespace, if the manifest names none
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, Subcommand)]
pub enum Get {
    /// Show pods
    #[command(visible_aliases = ["pod", "po"])]
    Pods(GetPods),
}

#[derive(Debug, ClapArgs)]
pub struct GetPods {
    /// Only this pod
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// How to show them
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<PodFormat>,
    /// Go on showing changes
    #[arg(short, long)]
    pub watch: bool,
    /// Only pods whose labels match
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    #[command(flatten)]
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodFormat {
    Wide,
    Yaml,
    Json,
    Name,
}

#[derive(Debug, ClapArgs)]
pub struct Scope {
    /// The pods' namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The pods of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

#[derive(Debug, Subcommand)]
pub enum Describe {
    /// Show all that is known about a pod
    #[command(visible_aliases = ["pods", "po"])]
    Pod(OnePod),
}

#[derive(Debug, ClapArgs)]
pub struct OnePod {
    /// The pod
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, ClapArgs)]
pub struct Exec {
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The container, if the pod has several [default: the first]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Logs {
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The container, if the pod has several
    #[arg(short, long, conflicts_with = "all_containers")]
    pub container: Option<String>,
    /// All containers, each line with its container's name
    #[arg(long)]
    pub all_containers: bool,
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// The output of the container before its last restart
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only what is newer than this: 30s, 5m, 2h
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub since: Option<u64>,
    /// Each line with its time
    #[arg(long)]
    pub timestamps: bool,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Delete {
    #[command(subcommand)]
    pub kind: Option<DeleteKind>,
    /// The pods of this manifest; - is standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub how: HowToDelete,
}

#[derive(Debug, Subcommand)]
pub enum DeleteKind {
    /// Take pods down by name, by labels, or all
    #[command(visible_aliases = ["pods", "po"])]
    Pod(DeletePod),
}

#[derive(Debug, ClapArgs)]
pub struct DeletePod {
    /// The pods
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "selector"])]
    pub names: Vec<String>,
    /// All pods of the namespace
    #[arg(long, conflicts_with_all = ["names", "selector"])]
    pub all: bool,
    /// The pods whose labels match
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "names")]
    pub selector: Option<String>,
    #[command(flatten)]
    pub how: HowToDelete,
}

#[derive(Debug, ClapArgs)]
pub struct HowToDelete {
    /// How many seconds the containers get to end in [default: what the pod says]
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// The same as --grace-period 0: kill at once
    #[arg(long, conflicts_with = "grace_period")]
    pub now: bool,
    /// Return at once
    #[arg(long)]
    pub no_wait: bool,
    /// The pods' namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, ClapArgs)]
pub struct Ns {
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Draw it into a file as well
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// How to show it
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<NsFormat>,
    /// The pod's namespace, in the sense of Kubernetes
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NsFormat {
    Json,
}

#[derive(Debug, ClapArgs)]
pub struct PauseImage {
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What docker load reads, or an OCI layout
    #[arg(long, default_value = "docker")]
    pub format: ArchiveFormat,
    /// The image's reference
    #[arg(long, value_name = "REF", default_value = concat!("hove.dev/pause:", env!("CARGO_PKG_VERSION")))]
    pub tag: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    Docker,
    Oci,
}

#[derive(Debug, ClapArgs)]
pub struct Daemon {
    /// End when there are no pods and nobody asks
    #[arg(long)]
    pub until_idle: bool,
    /// Leave the caller's session, and tell the start's outcome on standard output (for commands that start a node)
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// A duration as kubectl takes it (`1h30m`, `45s`, `45`), in seconds; at least one.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a duration such as 30s, 5m or 2h");
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let (unit, after) = match rest[digits..].chars().next() {
            Some('h') => (3600, &rest[digits + 1..]),
            Some('m') => (60, &rest[digits + 1..]),
            Some('s') => (1, &rest[digits + 1..]),
            None => (1, ""),
            Some(_) => return Err(wrong()),
        };
        total = number
            .checked_mul(unit)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = after;
    }
    if total == 0 { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn places_stand_before_or_after_the_command() {
        for line in ["hove --state /s run pod.yaml", "hove run --state /s pod.yaml"] {
            assert_eq!(parse(line).unwrap().places.state, Some("/s".into()), "{line}");
        }
    }

    #[test]
    fn exec_takes_its_command_after_two_dashes() {
        let Command::Exec(exec) = parse("hove exec -it web -c nginx -- sh -c ls").unwrap().command else {
            panic!()
        };
        assert!(exec.stdin && exec.tty);
        assert_eq!(
            (exec.container.as_deref(), &exec.command[..]),
            (Some("nginx"), &["sh".into(), "-c".into(), "ls".into()][..])
        );
        assert_eq!(
            parse("hove exec web").unwrap_err().kind(),
            ErrorKind::MissingRequiredArgument
        );
    }

    #[test]
    fn delete_wants_pods_or_a_manifest() {
        for (line, is_good) in [
            ("hove delete pod web", true),
            ("hove delete pods a b --now -n x", true),
            ("hove delete pod --all", true),
            ("hove delete pod -l app=web --grace-period 3", true),
            ("hove delete -f pod.yaml --no-wait", true),
            ("hove delete", false),
            ("hove delete pod", false),
            ("hove delete pod web --all", false),
            ("hove delete -f pod.yaml pod web", false),
        ] {
            assert_eq!(parse(line).is_ok(), is_good, "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn pods_have_kubectls_names() {
        for line in [
            "hove get pods",
            "hove get pod",
            "hove get po -A",
            "hove get pods web -o yaml",
            "hove get pods -w -n kube-system",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        assert!(parse("hove get pods -A -n x").is_err());
    }

    #[test]
    fn durations() {
        for (text, expected) in [("30s", 30), ("5m", 300), ("1h30m", 5400), ("45", 45)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for wrong in ["", "0s", "s", "5d", "-1s", "99999999999999999999s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
