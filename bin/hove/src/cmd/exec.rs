//! `hove exec`.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::{
    args::Exec,
    client::{path, pod_path},
    config::Settings,
    reach,
    terminal::{self, OutputFailed, RawMode},
};

/// The channels of `v5.channel.k8s.io`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What is read from standard input at once.
const CHUNK: usize = 16 * 1024;

pub async fn exec(settings: Settings, args: Exec) -> Result<ExitCode> {
    let client = reach::node(&settings).await?;
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        terminal::note("Unable to use a TTY: standard input is not a terminal");
    }
    let base = pod_path(&args.namespace, &args.pod);
    let container = match args.container {
        Some(container) => container,
        None => default_container(&client.get(&base).await?, &args.pod)?,
    };
    let mut query = vec![("container", container), ("stdout", "true".into())];
    query.extend(args.command.into_iter().map(|word| ("command", word)));
    if args.stdin {
        query.push(("stdin", "true".into()));
    }
    query.push(if tty {
        ("tty", "true".into())
    } else {
        ("stderr", "true".into())
    });
    let socket = client
        .websocket(&path(&format!("{base}/exec"), &query), "v5.channel.k8s.io")
        .await?;
    // Restored when this function returns, whatever happened.
    let raw = tty
        .then(RawMode::enter)
        .transpose()
        .context("the terminal's raw mode")?;
    let outcome = talk(socket, args.stdin, tty).await;
    drop(raw);
    exit_code(&outcome?)
}

/// As kubectl chooses: the annotated container, else the first.
fn default_container(pod: &Pod, name: &str) -> Result<String> {
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(annotated) = annotations.and_then(|all| all.get("kubectl.kubernetes.io/default-container")) {
        return Ok(annotated.clone());
    }
    let containers = pod.spec.as_ref().map(|spec| &spec.containers[..]).unwrap_or_default();
    let first = containers
        .first()
        .with_context(|| format!("pod {name} has no containers"))?
        .name
        .clone();
    if containers.len() > 1 {
        let names: Vec<_> = containers.iter().map(|container| container.name.as_str()).collect();
        terminal::note(format!("Defaulted container \"{first}\" out of: {}", names.join(", ")));
    }
    Ok(first)
}

/// Passes bytes, sizes and signals on until the program's end; answers its `Status`.
async fn talk(socket: WebSocketStream<UnixStream>, stdin: bool, tty: bool) -> Result<Value> {
    let (mut sink, mut source) = socket.split();
    let mut input = if stdin { Some(standard_input()) } else { None };
    let mut resized = signal(SignalKind::window_change())?;
    // A terminal in raw mode sends no Ctrl-C; these come from other processes, or from a terminal that is hung up.
    let mut ended = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    if tty && let Some(size) = size_message() {
        sink.send(size).await?;
    }
    let mut stdout = tokio::io::stdout();
    let mut stderr = tokio::io::stderr();
    loop {
        tokio::select! {
            message = source.next() => {
                let Some(message) = message else { bail!("the connection ended before the program did") };
                let bytes = match message? {
                    Message::Binary(bytes) => bytes,
                    Message::Close(_) => bail!("the connection ended before the program did"),
                    _ => continue,
                };
                match bytes.split_first() {
                    Some((&STDOUT, payload)) => {
                        stdout.write_all(payload).await.map_err(OutputFailed::stdout)?;
                        stdout.flush().await.map_err(OutputFailed::stdout)?;
                    }
                    Some((&STDERR, payload)) => {
                        stderr.write_all(payload).await.map_err(OutputFailed::stderr)?;
                        stderr.flush().await.map_err(OutputFailed::stderr)?;
                    }
                    Some((&ERROR, payload)) if !payload.is_empty() => return Ok(serde_json::from_slice(payload)?),
                    _ => {}
                }
            }
            bytes = next_input(&mut input) => match bytes {
                Some(payload) => sink.send(frame(STDIN, &payload)).await?,
                None => {
                    input = None;
                    sink.send(frame(CLOSE, &[STDIN])).await?;
                }
            },
            _ = resized.recv(), if tty => {
                if let Some(size) = size_message() {
                    sink.send(size).await?;
                }
            }
            _ = ended.0.recv() => bail!("terminated"),
            _ = ended.1.recv() => bail!("hung up"),
        }
    }
}

/// Standard input, read by a task of its own: a read that began can't be taken back.
fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
            if sender.send(buffer[..length].to_vec()).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn next_input(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

fn size_message() -> Option<Message> {
    let (width, height) = terminal::size()?;
    Some(frame(
        RESIZE,
        json!({"Width": width, "Height": height}).to_string().as_bytes(),
    ))
}

fn frame(channel: u8, payload: &[u8]) -> Message {
    Message::binary([&[channel], payload].concat())
}

/// The program's exit code becomes ours.
fn exit_code(status: &Value) -> Result<ExitCode> {
    if status["status"] == "Success" {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    let code = code.and_then(|cause| cause["message"].as_str()?.parse::<i32>().ok());
    match code {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!(
            "{}",
            status["message"].as_str().unwrap_or("the program could not be run")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_passed_through() {
        let failure = json!({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "42"}]}});
        assert_eq!(
            format!("{:?}", exit_code(&failure).unwrap()),
            format!("{:?}", ExitCode::from(42))
        );
        assert!(exit_code(&json!({"status": "Success"})).is_ok());
        let error = exit_code(&json!({"status": "Failure", "message": "no such program"})).unwrap_err();
        assert_eq!(error.to_string(), "no such program");
    }

    #[test]
    fn the_annotated_container_is_the_default() {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}}))
                .unwrap();
        assert_eq!(default_container(&pod, "p").unwrap(), "a");
        let annotation = ("kubectl.kubernetes.io/default-container".to_owned(), "b".to_owned());
        pod.metadata.annotations = Some([annotation].into());
        assert_eq!(default_container(&pod, "p").unwrap(), "b");
    }
}
