//! `hove image`: what is on the node, and how it comes and goes.

mod import;
mod mount;
mod transfer;

use std::process::ExitCode;

use anyhow::Result;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::Columns;
use crate::{
    args::{Image, ImageFormat},
    client::{Client, path, segment},
    config::Settings,
    node_api, reach, terminal, view,
};

/// Characters of a step's command that a line of `history` shows.
const COMMAND_WIDTH: usize = 60;

pub async fn image(settings: Settings, command: Image) -> Result<ExitCode> {
    // It looks at its files before a node is started for nothing.
    if let Image::Import(import) = command {
        return import::import(&settings, import).await;
    }
    let client = &reach::node(&settings).await?;
    match command {
        Image::Import(_) => unreachable!("done above"),
        Image::Pull(pull) => transfer::pull(client, pull).await,
        Image::Push(push) => transfer::push(client, push).await,
        Image::Export { output, images } => import::export(client, &images, &output).await,
        Image::Ls { output } => list(client, output).await,
        Image::Inspect { image } => {
            let image: Value = client.get(&image_path(&image)).await?;
            terminal::print(&format!("{}\n", serde_json::to_string_pretty(&image)?))?;
            Ok(ExitCode::SUCCESS)
        }
        Image::History { image, no_trunc } => history(client, &image, no_trunc).await,
        Image::Tag { image, names } => {
            for name in names {
                let request = json!({"image": image, "reference": name});
                let url = format!("{}:tag", images_path());
                let _: Value = client.json(Method::POST, &url, Some(&request)).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Image::Rm { images } => remove(client, &images).await,
        Image::Prune { all } => prune(client, all).await,
        Image::Mount(mount) => mount::mount(client, mount).await,
        Image::Unmount { directories } => mount::unmount(client, &directories).await,
    }
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
            // What was pulled by its digest goes by that.
            names = strings(&image["digests"]);
        }
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
        terminal::note("No images: hove image pull REF fetches one, hove image import FILE… brings some in.");
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

async fn prune(client: &Client, all: bool) -> Result<ExitCode> {
    let url = path(&format!("{}:prune", images_path()), &[("all", all.to_string())]);
    let pruned: Value = client.json(Method::POST, &url, None).await?;
    for id in strings(&pruned["deleted"]) {
        terminal::print(&format!("deleted {id}\n"))?;
    }
    let bytes = pruned["bytes"].as_u64().unwrap_or_default();
    terminal::print(&format!("{} are free again\n", view::bytes(bytes)))?;
    Ok(ExitCode::SUCCESS)
}

async fn history(client: &Client, image: &str, whole: bool) -> Result<ExitCode> {
    let image: Value = client.get(&image_path(image)).await?;
    let rows = steps(&image, Timestamp::now(), whole);
    if rows.is_empty() {
        terminal::note("Its makers left no history.");
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print(&Columns::new(["CREATED", "SIZE", "CREATED BY"]).with_headers(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The steps that made an image, the last one first. The sizes are those of the layers as they came; a step that made none
/// has none.
fn steps(image: &Value, now: Timestamp, whole: bool) -> Vec<Vec<String>> {
    let mut layers = image["layers"].as_array().into_iter().flatten();
    let mut rows = Vec::new();
    for step in image["config"]["history"].as_array().into_iter().flatten() {
        let created = step["created"].as_str().and_then(|time| time.parse().ok());
        let is_empty = step["empty_layer"].as_bool().unwrap_or_default();
        let layer = if is_empty { None } else { layers.next() };
        let size = layer.and_then(|layer| layer["size_bytes"].as_u64()).unwrap_or_default();
        let command = step["created_by"].as_str().unwrap_or_default();
        // One line per step, whatever stands in it.
        let command = command.replace(char::is_control, " ");
        let mut command = command.split_whitespace().collect::<Vec<_>>().join(" ");
        if !whole && command.chars().count() > COMMAND_WIDTH {
            command = command.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect();
        }
        let created = created.map(|time| view::ago(time, now)).unwrap_or_default();
        rows.push(vec![created, view::bytes(size), command]);
    }
    rows.reverse();
    rows
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

    #[test]
    fn history_gives_each_step_its_layer() {
        let image = json!({
            "config": {"history": [
                {"created": "2026-01-01T00:00:00Z", "created_by": "ADD  rootfs.tar\n / "},
                {"created": "2026-01-02T00:00:00Z", "created_by": "CMD sh", "empty_layer": true},
                {"created_by": "x".repeat(100)},
            ]},
            "layers": [{"size_bytes": 5_000_000}, {"size_bytes": 7}],
        });
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        let rows = steps(&image, now, false);
        assert_eq!(rows[2], ["2d", "5.0MB", "ADD rootfs.tar /"]);
        assert_eq!(rows[1], ["24h", "0B", "CMD sh"]);
        assert_eq!(rows[0][..2], ["", "7B"]);
        assert_eq!(rows[0][2].chars().count(), COMMAND_WIDTH);
        assert_eq!(steps(&image, now, true)[0][2].len(), 100);
    }
}
