//! Answers that come line by line while images travel.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use apiserver::Failure;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use image::{Digest, Image, Progress, Stage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often a silent answer says that it is alive, by an empty line: a client that is gone is noticed by then.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often a layer's progress is told.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Lines that a slow reader may be behind; it misses reports of progress.
const BACKLOG: usize = 64;

/// One line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "UPPERCASE")]
pub enum ImageLine {
    /// How far a layer is.
    #[serde(rename_all = "camelCase")]
    Layer {
        /// Which one, from 1…
        layer: usize,
        /// …of how many.
        layers: usize,
        /// Its digest.
        digest: Digest,
        /// What is being done to it.
        stage: LayerStage,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes of the layer.
        total_bytes: u64,
    },
    /// The image is there. The last line.
    Image {
        /// As `GET images` shows it.
        image: Value,
    },
    /// It is not, and why. The last line.
    Failed {
        /// For people.
        message: String,
    },
}

/// What is being done to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LayerStage {
    /// It travels.
    Moving,
    /// Its files are written.
    Unpacking,
    /// It is where it should be.
    Ready,
}

/// Tells progress, not more often than a person can see.
pub struct Reporter {
    lines: mpsc::Sender<Result<ImageLine, Failure>>,
    told: HashMap<(usize, LayerStage), Instant>,
}

impl Reporter {
    /// Passes a report on.
    pub fn report(&mut self, progress: &Progress) {
        let stage = match progress.stage {
            Stage::Storing | Stage::Sending => LayerStage::Moving,
            Stage::Unpacking => LayerStage::Unpacking,
            Stage::Ready => LayerStage::Ready,
        };
        let now = Instant::now();
        let last = self.told.get(&(progress.layer, stage));
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= REPORT_EVERY);
        if !is_due && progress.done_bytes < progress.total_bytes {
            return;
        }
        self.told.insert((progress.layer, stage), now);
        // A reader that is behind misses it.
        let _ = self.lines.try_send(Ok(ImageLine::Layer {
            layer: progress.layer,
            layers: progress.layers,
            digest: progress.digest,
            stage,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
        }));
    }
}

/// Answers with the progress of `work` and what it comes to. A failure before any progress is the answer itself. `work` ends
/// when the client goes.
pub async fn answer<W>(work: impl FnOnce(Reporter) -> W) -> Result<Response, Failure>
where
    W: Future<Output = Result<Arc<Image>, Failure>> + Send + 'static,
{
    let (lines, mut told) = mpsc::channel(BACKLOG);
    let outcome = work(Reporter {
        lines: lines.clone(),
        told: HashMap::new(),
    });
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let last = outcome.await.map(|image| ImageLine::Image {
            image: super::summary(&image),
        });
        // Nobody may listen any more.
        let _ = lines.send(last).await;
    }));
    let first = told.recv().await;
    let first = first.ok_or_else(|| Failure::internal("the work on the image ended without a word"))??;
    let state = (Some(Ok(first)), told, task);
    let lines = stream::unfold(state, |(first, mut told, task)| async move {
        let line = match first {
            Some(first) => encode(first),
            None => match timeout(KEEP_ALIVE, told.recv()).await {
                Ok(line) => encode(line?),
                Err(_) => Bytes::from_static(b"\n"),
            },
        };
        Some((Ok::<_, Infallible>(line), (None, told, task)))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

fn encode(line: Result<ImageLine, Failure>) -> Bytes {
    let line = line.unwrap_or_else(|failure| ImageLine::Failed {
        message: failure.to_string(),
    });
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
