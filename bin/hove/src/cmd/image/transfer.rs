//! Images from registries and to registries, with their progress.
//!
//! On a terminal there is a bar for each layer that moves and one for all of them; elsewhere a line for each layer that is done,
//! and every ten seconds.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    io::Read,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use image::registry::{Credentials, own_credentials};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{images_path, short, strings};
use crate::{
    args::{self, PullImages, PushImage},
    client::Client,
    node_api::{ImageLine, LayerStage, Login},
    terminal, view,
};

/// Where there is no terminal, something is said at least so often.
const SILENCE: Duration = Duration::from_secs(10);
/// A password, or a token, has at most so many bytes.
const PASSWORD_BYTES: u64 = 64 << 10;

/// `hove image pull`.
pub async fn pull(client: &Client, pull: PullImages) -> Result<ExitCode> {
    let login = read_login(pull.login)?;
    let mut code = ExitCode::SUCCESS;
    for image in &pull.images {
        match pull_one(client, image, login.as_ref()).await {
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

/// One image.
async fn pull_one(client: &Client, image: &str, login: Option<&Credentials>) -> Result<Value> {
    let login = shown(image, login).await?;
    transfer(client, "pull", &json!({"image": image, "login": login})).await
}

/// `hove image push`.
pub async fn push(client: &Client, push: PushImage) -> Result<ExitCode> {
    let login = read_login(push.login)?;
    let name = push.destination.as_ref().unwrap_or(&push.image);
    let login = shown(name, login.as_ref()).await?;
    let request = json!({"image": push.image, "destination": push.destination, "login": login});
    let pushed = transfer(client, "push", &request).await?;
    terminal::print(&format!("pushed {name} ({})\n", short(&pushed["id"])))?;
    Ok(ExitCode::SUCCESS)
}

/// The password comes from standard input: a command line can be seen by everybody.
fn read_login(login: args::Login) -> Result<Option<Credentials>> {
    let Some(name) = login.username else {
        return Ok(None);
    };
    let mut password = String::new();
    let read = std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES)
        .read_to_string(&mut password);
    read.context("the password from standard input")?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        bail!("standard input has no password");
    }
    Ok(Some(Credentials::Password { name, password }))
}

/// What the registry of `name` is shown: `login`, or what docker's configuration of whoever types this has for it. The node's own
/// is another one where it was started with another environment.
async fn shown(name: &str, login: Option<&Credentials>) -> Result<Option<Login>> {
    let own = match (login, name.parse()) {
        (None, Ok(reference)) => own_credentials(&reference).await?,
        // What is no reference the node refuses.
        _ => None,
    };
    Ok(login.cloned().or(own).map(Login::from))
}

/// Asks for an image to be moved, and shows its progress; answers the image.
async fn transfer(client: &Client, verb: &str, request: &Value) -> Result<Value> {
    let url = format!("{}:{verb}", images_path());
    let mut lines = client
        .lines(Method::POST, &url, Bytes::from(request.to_string()))
        .await?;
    let mut screen = Screen::new(match verb {
        "push" => "pushing",
        _ => "pulling",
    });
    const ENDED: &str = "the node ended before the image was there: try again, what has come is kept";
    while let Some(line) = lines.next().await.context(ENDED)? {
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
    bail!(ENDED)
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
enum Screen {
    Bars(Bars),
    Lines { last: Instant },
}

impl Screen {
    /// `doing` is what is done to layers: pulling, pushing.
    fn new(doing: &'static str) -> Screen {
        match std::io::stderr().is_terminal() {
            true => Screen::Bars(Bars::new(doing)),
            false => Screen::Lines { last: Instant::now() },
        }
    }

    fn show(&mut self, seen: &Seen) {
        match self {
            Screen::Bars(bars) => bars.show(seen),
            Screen::Lines { last } => {
                if let Some(line) = line(seen, last.elapsed()) {
                    terminal::note(line);
                    *last = Instant::now();
                }
            }
        }
    }
}

/// A layer that is done, in words; or one that is not, when nothing was said for long.
fn line(seen: &Seen, silence: Duration) -> Option<String> {
    let (layer, layers, digest) = (seen.layer, seen.layers, &seen.digest);
    let total = view::bytes(seen.total_bytes);
    match seen.stage {
        LayerStage::Ready => Some(format!("layer {layer}/{layers} {digest} {total}")),
        LayerStage::Moving | LayerStage::Unpacking if silence >= SILENCE => {
            let done = view::bytes(seen.done_bytes);
            Some(format!("layer {layer}/{layers} {digest} {done} of {total}"))
        }
        _ => None,
    }
}

struct Bars {
    screen: MultiProgress,
    total: ProgressBar,
    layers: BTreeMap<usize, Layer>,
    doing: &'static str,
}

#[derive(Default)]
struct Layer {
    /// While something is done to it.
    bar: Option<ProgressBar>,
    moved_bytes: u64,
    total_bytes: u64,
    is_unpacking: bool,
    is_ready: bool,
}

impl Layer {
    /// What is being done to it now; nothing, when it waits for a connection, or for those below it.
    fn update(&mut self, seen: &Seen, doing: &'static str) -> Option<&'static str> {
        self.total_bytes = seen.total_bytes;
        match seen.stage {
            LayerStage::Moving => self.moved_bytes = seen.done_bytes,
            LayerStage::Unpacking => self.is_unpacking = true,
            LayerStage::Ready => (self.moved_bytes, self.is_ready) = (self.total_bytes, true),
        }
        if self.is_ready {
            None
        } else if self.is_unpacking {
            Some("unpacking")
        } else {
            (0 < self.moved_bytes && self.moved_bytes < self.total_bytes).then_some(doing)
        }
    }
}

impl Bars {
    fn new(doing: &'static str) -> Bars {
        let screen = MultiProgress::new();
        let total = screen.add(ProgressBar::new(0).with_style(style(
            "{msg:<24} {wide_bar} {decimal_bytes:>10}/{decimal_total_bytes:<10} {decimal_bytes_per_sec} {eta}",
        )));
        total.enable_steady_tick(Duration::from_millis(100));
        Bars {
            screen,
            total,
            layers: BTreeMap::new(),
            doing,
        }
    }

    fn show(&mut self, seen: &Seen) {
        let (screen, total) = (&self.screen, &self.total);
        let layer = self.layers.entry(seen.layer).or_default();
        match layer.update(seen, self.doing) {
            Some(doing) => {
                let bar = layer.bar.get_or_insert_with(|| {
                    let bar = ProgressBar::new(seen.total_bytes).with_style(style(
                        "{prefix} {msg:<11} {wide_bar} {decimal_bytes:>10}/{decimal_total_bytes:<10}",
                    ));
                    screen.insert_before(total, bar).with_prefix(seen.digest.clone())
                });
                bar.set_message(doing);
                // What is unpacked while it arrives is behind what has arrived.
                if !layer.is_unpacking || seen.stage == LayerStage::Unpacking {
                    bar.set_position(seen.done_bytes);
                }
            }
            // Many layers are more than a screen has lines: those that wait, and those that are done, make room.
            None => {
                if let Some(bar) = layer.bar.take() {
                    bar.finish_and_clear();
                    screen.remove(&bar);
                }
            }
        }
        let ready = self.layers.values().filter(|layer| layer.is_ready).count();
        self.total
            .set_length(self.layers.values().map(|layer| layer.total_bytes).sum());
        self.total
            .set_position(self.layers.values().map(|layer| layer.moved_bytes).sum());
        self.total
            .set_message(format!("{ready} of {} layers ready", seen.layers));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stage: LayerStage, done_bytes: u64) -> Seen {
        Seen {
            layer: 2,
            layers: 3,
            digest: "0123456789ab".into(),
            stage,
            done_bytes,
            total_bytes: 2_000_000,
        }
    }

    #[test]
    fn a_bar_stands_for_a_layer_that_moves_or_is_unpacked() {
        let mut layer = Layer::default();
        assert_eq!(layer.update(&seen(LayerStage::Moving, 0), "pulling"), None);
        assert_eq!(layer.update(&seen(LayerStage::Moving, 7), "pulling"), Some("pulling"));
        assert_eq!(layer.update(&seen(LayerStage::Moving, 2_000_000), "pulling"), None);
        assert_eq!(
            layer.update(&seen(LayerStage::Unpacking, 9), "pulling"),
            Some("unpacking")
        );
        // Of what is unpacked while it arrives, both are heard.
        assert_eq!(
            layer.update(&seen(LayerStage::Moving, 2_000_000), "pulling"),
            Some("unpacking")
        );
        assert_eq!(layer.update(&seen(LayerStage::Ready, 2_000_000), "pulling"), None);
        // One that was there counts as moved.
        let mut there = Layer::default();
        assert_eq!(there.update(&seen(LayerStage::Ready, 0), "pulling"), None);
        assert_eq!(there.moved_bytes, 2_000_000);
    }

    #[test]
    fn without_a_terminal_there_is_a_line_for_a_layer_and_one_when_it_takes_long() {
        let soon = Duration::from_secs(1);
        assert_eq!(line(&seen(LayerStage::Moving, 7), soon), None);
        let late = line(&seen(LayerStage::Moving, 1_000_000), SILENCE);
        assert_eq!(late.as_deref(), Some("layer 2/3 0123456789ab 1.0MB of 2.0MB"));
        let ready = line(&seen(LayerStage::Ready, 0), soon);
        assert_eq!(ready.as_deref(), Some("layer 2/3 0123456789ab 2.0MB"));
    }
}
