//! Lists as streams: each item once, then the end.

use cri::Result;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

/// Items of one message: far below the 16 MiB that a client takes, whatever their labels. A pod with its metrics is the
/// largest, some hundred kilobytes.
const BATCH: usize = 32;

/// `items` in messages that `wrap` makes.
pub(super) fn batches<T, M>(items: Vec<T>, wrap: impl Fn(Vec<T>) -> M + Send + 'static) -> BoxStream<'static, Result<M>>
where
    T: Send + 'static,
    M: Send + 'static,
{
    stream::iter(items)
        .chunks(BATCH)
        .map(move |batch| Ok(wrap(batch)))
        .boxed()
}
