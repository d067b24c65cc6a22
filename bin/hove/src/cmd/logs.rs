//! `hove logs`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Method;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    args::Logs,
    client::{self, Client, path, pod_path},
    config::Settings,
    reach, terminal,
};

pub async fn logs(settings: Settings, args: Logs) -> Result<ExitCode> {
    let client = reach::node(&settings).await?;
    if !args.all_containers {
        let mut log = client
            .lines(Method::GET, &log_path(&args, args.container.as_deref()), Bytes::new())
            .await?;
        while let Some(bytes) = log.chunk().await? {
            terminal::print_bytes(&bytes)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let pod: Pod = client.get(&pod_path(&args.namespace, &args.pod)).await?;
    let names = container_names(&pod);
    let prefixes = Prefixes::new(&names, terminal::stdout_colours());
    let all = names
        .iter()
        .enumerate()
        .map(|(index, name)| show(&client, &args, name, prefixes.get(index)));
    // A container whose log can't be read leaves the others to be shown; an output that can't be written ends them all.
    let shown = try_join_all(all).await?;
    let failures: Vec<_> = shown.into_iter().filter_map(Result::err).collect();
    if failures.len() == names.len()
        && let Some(first) = failures.into_iter().next()
    {
        bail!(first);
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(
    client: &Client,
    args: &Logs,
    container: &str,
    prefix: &str,
) -> Result<client::Result<()>, terminal::OutputFailed> {
    let path = log_path(args, Some(container));
    let mut log = match client.lines(Method::GET, &path, Bytes::new()).await {
        Ok(log) => log,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match log.next().await {
            Ok(Some(line)) => print_line(prefix, &line)?,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn log_path(args: &Logs, container: Option<&str>) -> String {
    let mut query = Vec::new();
    let mut add = |key: &'static str, value: Option<String>| query.extend(value.map(|value| (key, value)));
    add("container", container.map(str::to_owned));
    add("follow", args.follow.then(|| "true".into()));
    add("previous", args.previous.then(|| "true".into()));
    add("timestamps", args.timestamps.then(|| "true".into()));
    add("tailLines", args.tail.map(|lines| lines.to_string()));
    add("sinceSeconds", args.since.map(|seconds| seconds.to_string()));
    path(&format!("{}/log", pod_path(&args.namespace, &args.pod)), &query)
}

/// The names of a pod's containers, init containers first, as they run.
pub fn container_names(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.map(|container| container.name.clone()).collect()
}

/// What stands before each line of a container: `nginx  | `.
#[derive(Clone)]
pub struct Prefixes(Vec<String>);

impl Prefixes {
    /// All names are made equally wide.
    pub fn new(names: &[String], colours: bool) -> Prefixes {
        let width = names.iter().map(String::len).max().unwrap_or_default();
        let prefix = |(index, name): (usize, &String)| {
            let text = format!("{name:width$} |");
            if colours {
                format!("{} ", terminal::coloured(&text, index))
            } else {
                format!("{text} ")
            }
        };
        Prefixes(names.iter().enumerate().map(prefix).collect())
    }

    /// That of the `index`th name.
    pub fn get(&self, index: usize) -> &str {
        self.0.get(index).map_or("", String::as_str)
    }
}

/// Prints a line whole, whatever bytes it has.
pub fn print_line(prefix: &str, line: &[u8]) -> Result<(), terminal::OutputFailed> {
    terminal::print_bytes(&[prefix.as_bytes(), line, b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_equally_wide() {
        let prefixes = Prefixes::new(&["nginx".into(), "db".into()], false);
        assert_eq!((prefixes.get(0), prefixes.get(1)), ("nginx | ", "db    | "));
        assert!(Prefixes::new(&["a".into()], true).get(0).contains("\x1b["));
    }
}
