//! Calls that block (images, networks, cgroups), off tokio's own threads.

/// Runs `work` on a thread that may block. A panic in it is passed on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nothing that could come now would be of use, and nobody waits for it.
            Err(_) => std::future::pending().await,
        },
    }
}
