//! An image's files in a directory.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{images_path, short};
use crate::{args::MountImage, client::Client, cmd::table::Columns, terminal};

/// `hove image mount`.
pub async fn mount(client: &Client, mount: MountImage) -> Result<ExitCode> {
    let url = format!("{}:mount", images_path());
    let (Some(image), Some(directory)) = (mount.image, mount.directory) else {
        return list(client).await;
    };
    let request = json!({"image": image, "directory": std::path::absolute(directory)?});
    let mounted: Value = client.json(Method::POST, &url, Some(&request)).await?;
    terminal::print(&format!("{}\n", mounted["directory"].as_str().unwrap_or_default()))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client) -> Result<ExitCode> {
    let mounts: Value = client.get(&format!("{}:mounts", images_path())).await?;
    let rows: Vec<_> = mounts["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| {
            vec![
                mount["directory"].as_str().unwrap_or_default().to_owned(),
                short(&mount["image"]),
            ]
        })
        .collect();
    if rows.is_empty() {
        terminal::note("No image is mounted: hove image mount IMAGE DIR does it.");
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print(&Columns::new(["DIRECTORY", "IMAGE"]).with_headers(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// `hove image unmount`.
pub async fn unmount(client: &Client, directories: &[PathBuf]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for directory in directories {
        let request = json!({"directory": std::path::absolute(directory)?});
        let url = format!("{}:unmount", images_path());
        if let Err(error) = client.json::<Value>(Method::POST, &url, Some(&request)).await {
            terminal::error(&error.into());
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
