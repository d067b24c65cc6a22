//! Images from registries and to registries, with their progress.
//!
//! On a terminal there is a bar for each layer that moves and one for all of them; elsewhere a line for each layer that is done.

use std::{collections::BTreeMap, io::IsTerminal, io::Read, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{images_path, short, strings};
use crate::{
    args::{Login, PullImages, PushImage},
    client::Client,
    node_api::{ImageLine, LayerStage},
    terminal, view,
};

/// A password, or a token, has at most so many bytes.
const PASSWORD_BYTES: u64 = 64 << 10;

/// `hove image pull`.
pub async fn pull(client: &Client, pull: PullImages) -> Result<ExitCode> {
    let login = read_login(pull.login)?;
    let mut code = ExitCode::SUCCESS;
    for image in &pull.images {
        let request = json!({"image": image, "login": login});
        match transfer(client, "pull", &request).await {
            Ok(pulled) => {
                let name = strings(&pulled["tags"])
                    .into_iter()
                    .find(|tag| tag.ends_with(image.as_str()));
                let name = name.unwrap_or_else(|| image.clone());
                terminal::print(&format!("pulled {name} ({})\n", short(&pulled["id"])))?;
            }
            Err(error) => {
                terminal::error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// `hove image push`.
pub async fn push(client: &Client, push: PushImage) -> Result<ExitCode> {
    let login = read_login(push.login)?;
    let request = json!({"image": push.image, "destination": push.destination, "login": login});
    let pushed = transfer(client, "push", &request).await?;
    let name = push.destination.unwrap_or(push.image);
    terminal::print(&format!("pushed {name} ({})\n", short(&pushed["id"])))?;
    Ok(ExitCode::SUCCESS)
}

/// The password comes from standard input: a command line can be seen by everybody.
fn read_login(login: Login) -> Result<Value> {
    let Some(username) = login.username else {
        return Ok(Value::Null);
    };
    let mut password = String::new();
    let read = std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES)
        .read_to_string(&mut password);
    read.context("the password from standard input")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("standard input has no password");
    }
    Ok(json!({"username": username, "password": password}))
}

/// Asks for an image to be moved, and shows its progress; answers the image.
async fn transfer(client: &Client, verb: &str, request: &Value) -> Result<Value> {
    let url = format!("{}:{verb}", images_path());
    let mut lines = client
        .lines(Method::POST, &url, Bytes::from(request.to_string()))
        .await?;
    let mut screen = Screen::new();
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(&line).context("the node's answer")? {
            ImageLine::Image { image } => return Ok(image),
            ImageLine::Failed { message } => bail!(message),
            ImageLine::Layer {
                layer,
                layers,
                digest,
                stage,
                done_bytes,
                total_bytes,
            } => screen.show(&Seen {
                layer,
                layers,
                digest: short(&json!(digest)),
                stage,
                done_bytes,
                total_bytes,
            }),
        }
    }
    bail!("the node ended before the image was there: try again")
}

/// How far a layer was when it was last heard of.
struct Seen {
    layer: usize,
    layers: usize,
    digest: String,
    stage: LayerStage,
    done_bytes: u64,
    total_bytes: u64,
}

/// Where progress is shown; what is left of it goes when this is dropped.
struct Screen {
    bars: Option<Bars>,
}

impl Screen {
    fn new() -> Screen {
        Screen {
            bars: std::io::stderr().is_terminal().then(Bars::new),
        }
    }

    fn show(&mut self, seen: &Seen) {
        match &mut self.bars {
            Some(bars) => bars.show(seen),
            None if seen.stage == LayerStage::Ready => terminal::note(line(seen)),
            None => {}
        }
    }
}

/// A layer that is done, in words.
fn line(seen: &Seen) -> String {
    let (layer, layers, digest) = (seen.layer, seen.layers, &seen.digest);
    format!("layer {layer}/{layers} {digest} {}", view::bytes(seen.total_bytes))
}

struct Bars {
    screen: MultiProgress,
    total: ProgressBar,
    layers: BTreeMap<usize, Layer>,
}

struct Layer {
    bar: ProgressBar,
    moved_bytes: u64,
    total_bytes: u64,
    is_ready: bool,
}

impl Bars {
    fn new() -> Bars {
        let screen = MultiProgress::new();
        let total = screen.add(
            ProgressBar::new(0).with_style(style("{spinner} {msg} {bytes}/{total_bytes} {bytes_per_sec} {elapsed}")),
        );
        total.enable_steady_tick(Duration::from_millis(100));
        Bars {
            screen,
            total,
            layers: BTreeMap::new(),
        }
    }

    fn show(&mut self, seen: &Seen) {
        let (screen, total) = (&self.screen, &self.total);
        let layer = self.layers.entry(seen.layer).or_insert_with(|| {
            let bar = ProgressBar::new(seen.total_bytes)
                .with_style(style("  {prefix} {msg:>9} {wide_bar} {bytes:>10}/{total_bytes:<10}"));
            Layer {
                bar: screen.insert_before(total, bar).with_prefix(seen.digest.clone()),
                moved_bytes: 0,
                total_bytes: seen.total_bytes,
                is_ready: false,
            }
        });
        let message = match seen.stage {
            LayerStage::Moving => {
                layer.moved_bytes = seen.done_bytes;
                "moving"
            }
            LayerStage::Unpacking => "unpacking",
            LayerStage::Ready => {
                layer.moved_bytes = layer.total_bytes;
                layer.is_ready = true;
                "ready"
            }
        };
        layer.bar.set_message(message);
        layer.bar.set_position(seen.done_bytes);
        if layer.is_ready {
            // Many layers are more than a screen has lines: those that are done make room.
            layer.bar.finish_and_clear();
        }
        let ready = self.layers.values().filter(|layer| layer.is_ready).count();
        self.total
            .set_length(self.layers.values().map(|layer| layer.total_bytes).sum());
        self.total
            .set_position(self.layers.values().map(|layer| layer.moved_bytes).sum());
        self.total.set_message(format!("{ready} of {} layers", seen.layers));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // An error's line comes below nothing.
        let _ = self.screen.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
