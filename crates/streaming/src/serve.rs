//! An HTTP/1.1 server that bounds what a client can cost: connections at once, how long and how large the head of a request
//! may be. Bodies are their handlers' business.
//!
//! ```text
//!  slot (CONNECTIONS_MAX) ─► accept ─► head of a request (HEAD_TIMEOUT, HEAD_MAX) ─► router ─► … ─► upgraded ─► slot free
//! ```

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::held::Held;

/// How many connections are served at once, upgraded ones too; more wait in the listener's backlog until one ends.
pub const CONNECTIONS_MAX: usize = 512;
/// How long the head of a request may take to come, from the connection's begin or the former answer's end.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How large a head may be, in bytes: that of an exec names a whole command.
pub const HEAD_MAX: usize = 64 << 10;

/// Serves `router` until `stop`, and then until what is open has ended.
pub async fn serve<L: Listener>(mut listener: L, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = TaskTracker::new();
    while let Some(Ok(slot)) = stop.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await {
        let Some((stream, _)) = stop.run_until_cancelled(listener.accept()).await else {
            break;
        };
        let stream = Held::new(stream, slot);
        open.spawn(converse(stream, router.clone(), stop.clone()));
    }
    // Its name would be answered to for as long as the last connection lasts.
    drop(listener);
    open.close();
    open.wait().await;
}

/// One connection, to its end or its upgrade.
async fn converse<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The client's doing: it has been answered where HTTP has an answer.
        tracing::debug!(%error, "a connection ended early");
    }
}
