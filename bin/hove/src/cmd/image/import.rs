//! Images from files and into files.

use std::{
    fs::{File, OpenOptions},
    io::IsTerminal,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use image::Reference;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::{images_path, short, strings};
use crate::{
    args::ImportImage,
    client::{self, Body, Client, path},
    config::Settings,
    reach,
    terminal::{self, OutputFailed},
};

/// What is read from an archive at once.
const CHUNK: usize = 256 * 1024;

/// `hove image import`.
pub async fn import(settings: &Settings, import: ImportImage) -> Result<ExitCode> {
    if import.tag.is_some() && import.files.len() > 1 {
        bail!(
            "--tag names one image: import the {} files one by one",
            import.files.len()
        );
    }
    // Before a node is started for nothing.
    for file in import.files.iter().chain(&import.rootfs) {
        std::fs::metadata(file).with_context(|| file.display().to_string())?;
    }
    let client = reach::node(settings).await?;
    if let Some(directory) = &import.rootfs {
        let request = json!({
            "directory": std::path::absolute(directory)?,
            "reference": import.tag.as_ref().map(Reference::to_string),
            "config": {
                "entrypoint": import.entrypoint,
                "cmd": import.cmd,
                "env": import.env,
                "user": import.user.unwrap_or_default(),
                "working_dir": import.workdir.unwrap_or_default(),
            },
        });
        let bar = spinner(format!("importing {}", directory.display()));
        let result = client
            .json(Method::POST, &format!("{}:importRootfs", images_path()), Some(&request))
            .await;
        bar.finish_and_clear();
        print_imported(&result.with_context(|| directory.display().to_string())?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for file in &import.files {
        let images = import_file(&client, file, import.tag.as_ref()).await;
        print_imported(&images.with_context(|| file.display().to_string())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a file. The node reads it, not by its name: a node may see another file system.
async fn import_file(client: &Client, file: &Path, tag: Option<&Reference>) -> Result<Value> {
    let tag = tag.map(Reference::to_string);
    let query: Vec<_> = tag.iter().map(|tag| ("reference", tag.clone())).collect();
    let url = path(&format!("{}:import", images_path()), &query);
    if file.is_dir() {
        let request = json!({"directory": std::path::absolute(file)?, "reference": tag});
        let images = client
            .json(Method::POST, &format!("{}:importLayout", images_path()), Some(&request))
            .await?;
        return Ok(images);
    }
    let archive = tokio::fs::File::open(file).await?;
    let bar = upload_bar(archive.metadata().await?.len(), file);
    let counted = bar.clone();
    let chunks = ReaderStream::with_capacity(archive, CHUNK).inspect_ok(move |chunk: &Bytes| {
        counted.inc(chunk.len() as u64);
    });
    let body: Body = StreamBody::new(chunks.map_ok(Frame::data)).boxed();
    let answer = client.send(Method::POST, &url, body).await;
    bar.finish_and_clear();
    let bytes = answer?.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&bytes)?)
}

fn print_imported(images: &Value) -> Result<(), OutputFailed> {
    for image in images["items"].as_array().into_iter().flatten() {
        let names = strings(&image["tags"]);
        let name = if names.is_empty() {
            "<none>".to_owned()
        } else {
            names.join(" ")
        };
        terminal::print(&format!("imported {name} ({})\n", short(&image["id"])))?;
    }
    Ok(())
}

/// `hove image export`.
pub async fn export(client: &Client, images: &[String], output: &Path) -> Result<ExitCode> {
    let query: Vec<_> = images.iter().map(|image| ("image", image.clone())).collect();
    let url = path(&format!("{}:export", images_path()), &query);
    if output == Path::new("-") {
        if std::io::stdout().is_terminal() {
            bail!("an archive is nothing for a terminal: send standard output elsewhere, or name a file");
        }
        write_archive(client, &url, tokio::io::stdout())
            .await?
            .map_err(OutputFailed::stdout)?;
        return Ok(ExitCode::SUCCESS);
    }
    let named = || output.display().to_string();
    let output = &match std::fs::metadata(output) {
        // What is there stays what it is: a device, a pipe, a link.
        Ok(there) if !there.is_file() => {
            let file = OpenOptions::new().write(true).open(output).with_context(named)?;
            let file = tokio::fs::File::from_std(file);
            write_archive(client, &url, file).await?.with_context(named)?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(_) => output.canonicalize().with_context(named)?,
        Err(_) => output.to_path_buf(),
    };
    let whole = Nameless::beside(output).with_context(named)?;
    let file = tokio::fs::File::from_std(whole.file.try_clone().with_context(named)?);
    write_archive(client, &url, file).await?.with_context(named)?;
    whole.name(output).with_context(named)?;
    Ok(ExitCode::SUCCESS)
}

/// A file that gets its name when it is whole (open(2), O_TMPFILE): until then, whatever ends this process, nothing of it is left. Where
/// the file system can't do that, it is there under another name meanwhile.
struct Nameless {
    file: File,
    meanwhile: Option<PathBuf>,
}

impl Nameless {
    /// With the permissions that any new file gets.
    fn beside(path: &Path) -> std::io::Result<Nameless> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(Nameless {
                file: file.into(),
                meanwhile: None,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let other = other_name(path);
                let file = File::create_new(&other)?;
                Ok(Nameless {
                    file,
                    meanwhile: Some(other),
                })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the place of what has the name.
    fn name(mut self, path: &Path) -> std::io::Result<()> {
        if self.meanwhile.is_none() {
            let this = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |to: &Path| rustix::fs::linkat(CWD, &this, CWD, to, AtFlags::SYMLINK_FOLLOW);
            match link(path) {
                Err(Errno::EXIST) => {}
                done => return Ok(done?),
            }
            // A link replaces nothing; a renamed file does.
            let other = other_name(path);
            link(&other)?;
            self.meanwhile = Some(other);
        }
        if let Some(other) = &self.meanwhile {
            std::fs::rename(other, path)?;
        }
        self.meanwhile = None;
        Ok(())
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        if let Some(other) = &self.meanwhile {
            let _ = std::fs::remove_file(other);
        }
    }
}

fn other_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    name.into()
}

/// The outer failure is the node's, the inner one the output's.
async fn write_archive(
    client: &Client,
    url: &str,
    mut output: impl AsyncWrite + Unpin,
) -> client::Result<std::io::Result<()>> {
    let mut archive = client.lines(Method::GET, url, Bytes::new()).await?;
    while let Some(chunk) = archive.chunk().await? {
        if let Err(error) = output.write_all(&chunk).await {
            return Ok(Err(error));
        }
    }
    Ok(output.flush().await)
}

fn upload_bar(length: u64, file: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{spinner} {msg} {decimal_bytes}/{decimal_total_bytes} {wide_bar} {elapsed}");
    let bar = ProgressBar::new(length).with_message(file.display().to_string());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn spinner(message: String) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
