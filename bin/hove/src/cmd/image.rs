//! `hove image`: what is on the node.

use std::{io::IsTerminal, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::table::Columns;
use crate::{
    args::{Image, ImageFormat, ImportImage},
    client::{Body, Client, path, segment},
    config::Settings,
    node_api, reach,
    terminal::{self, OutputFailed},
    view,
};

/// What is read from an archive at once.
const CHUNK: usize = 256 * 1024;

pub async fn image(settings: Settings, command: Image) -> Result<ExitCode> {
    match command {
        Image::Import(import) => self::import(&settings, import).await,
        Image::Ls { output } => list(&reach::node(&settings).await?, output).await,
        Image::Inspect { image } => {
            let client = reach::node(&settings).await?;
            let image: Value = client.get(&image_path(&image)).await?;
            terminal::print(&format!("{}\n", serde_json::to_string_pretty(&image)?))?;
            Ok(ExitCode::SUCCESS)
        }
        Image::Rm { images } => remove(&reach::node(&settings).await?, &images).await,
    }
}

async fn import(settings: &Settings, import: ImportImage) -> Result<ExitCode> {
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
            "reference": import.tag,
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
        let images = import_file(&client, file, import.tag.as_deref()).await;
        print_imported(&images.with_context(|| file.display().to_string())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a file. The node reads it, not by its name: a node may see another file system.
async fn import_file(client: &Client, file: &Path, tag: Option<&str>) -> Result<Value> {
    let query: Vec<_> = tag.map(|tag| ("reference", tag.to_owned())).into_iter().collect();
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

async fn list(client: &Client, output: Option<ImageFormat>) -> Result<ExitCode> {
    let images: Value = client.get(&images_path()).await?;
    if output == Some(ImageFormat::Json) {
        terminal::print(&format!("{}\n", serde_json::to_string_pretty(&images)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for image in images["items"].as_array().into_iter().flatten() {
        let imported = image["importedAt"].as_str().and_then(|time| time.parse().ok());
        let age = imported.map(|time| view::ago(time, now)).unwrap_or_default();
        let size = view::bytes(image["sizeBytes"].as_u64().unwrap_or_default());
        let mut names = strings(&image["tags"]);
        if names.is_empty() {
            names.push("<none>".into());
        }
        rows.extend(
            names
                .into_iter()
                .map(|name| vec![name, short(&image["id"]), size.clone(), age.clone()]),
        );
    }
    if rows.is_empty() {
        terminal::note("No images: hove image import FILE… brings some in.");
        return Ok(ExitCode::SUCCESS);
    }
    rows.sort();
    terminal::print(&Columns::new(["IMAGE", "ID", "SIZE", "AGE"]).with_headers(&rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, images: &[String]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for image in images {
        match client.json::<Value>(Method::DELETE, &image_path(image), None).await {
            Ok(removed) => {
                for name in strings(&removed["untagged"]) {
                    terminal::print(&format!("untagged {name}\n"))?;
                }
                if let Some(id) = removed["deleted"].as_str() {
                    terminal::print(&format!("deleted {id}\n"))?;
                }
            }
            Err(error) => {
                terminal::error(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn images_path() -> String {
    format!("{}/images", node_api::BASE)
}

fn image_path(name: &str) -> String {
    let name: Vec<_> = name.split('/').map(segment).collect();
    format!("{}/{}", images_path(), name.join("/"))
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// The first twelve digits of an id.
fn short(id: &Value) -> String {
    let id = id.as_str().unwrap_or_default();
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.chars().take(12).collect()
}

fn upload_bar(length: u64, file: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {bytes}/{total_bytes} {wide_bar} {elapsed}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_keep_their_slashes() {
        assert_eq!(
            image_path("docker.io/a b:1"),
            "/apis/hove.dev/v1/images/docker.io/a%20b%3A1"
        );
    }

    #[test]
    fn ids_are_short() {
        assert_eq!(short(&json!("sha256:0123456789abcdef")), "0123456789ab");
    }
}
