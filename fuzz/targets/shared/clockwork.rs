//! Runs a conversation on one thread whose clock jumps to the next timer when there is nothing else to do: a run is the same
//! each time, and no limit is waited for.

use std::future::Future;
use std::time::Duration;

/// On that clock: no limit of the code's own is as long, so whoever is not done by then never is.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Runs `conversation` to its end.
pub fn run<T>(conversation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without descriptors");
    runtime
        .block_on(async { tokio::time::timeout(NEVER, conversation).await })
        .expect("the conversation hangs")
}
