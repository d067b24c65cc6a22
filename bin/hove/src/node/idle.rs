//! When a node that was started by a command may end: no pods, nobody connected, no sandbox of a kubelet whose daemon is gone, and no
//! image mounted, for [`IDLE_GRACE`].

use std::{io, sync::Arc, time::Duration};

use objects::{Kind, Scope, Store};
use streaming::held::Held;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

/// How long nothing must happen. The next command of a script finds the node still there.
const IDLE_GRACE: Duration = Duration::from_secs(2);

/// Counts connections.
#[derive(Clone)]
pub struct Connections(watch::Sender<usize>);

impl Connections {
    /// None yet.
    pub fn new() -> Connections {
        Connections(watch::Sender::new(0))
    }

    /// Counts those that `listener` accepts.
    pub fn listen(&self, listener: UnixListener) -> CountingListener {
        CountingListener {
            listener,
            connections: self.clone(),
        }
    }
}

/// Returns when nothing has been there for [`IDLE_GRACE`]. What else `is_needed` for is asked as often.
pub async fn until_idle(
    connections: &Connections,
    objects: &Arc<Store>,
    is_needed: impl Fn() -> bool,
) -> objects::Result<()> {
    let mut open = connections.0.subscribe();
    loop {
        let mut pods = objects.watch(Scope::all(Kind::Pod), Some(objects.version()))?;
        let busy = *open.borrow_and_update() > 0 || !objects.list(&Scope::all(Kind::Pod))?.0.is_empty();
        let change = async {
            tokio::select! {
                _ = open.changed() => {}
                _ = pods.next() => {}
            }
        };
        if busy {
            change.await;
        } else if timeout(IDLE_GRACE, change).await.is_err() && !is_needed() {
            return Ok(());
        }
    }
}

/// A listener whose connections are counted while they are open, upgraded ones too.
pub struct CountingListener {
    listener: UnixListener,
    connections: Connections,
}

impl axum::serve::Listener for CountingListener {
    type Io = Held<UnixStream, Counted>;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, ()) {
        let (stream, _) = axum::serve::Listener::accept(&mut self.listener).await;
        (Held::new(stream, Counted::new(self.connections.clone())), ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts one connection for as long as it is there.
pub struct Counted(Connections);

impl Counted {
    fn new(connections: Connections) -> Counted {
        connections.0.send_modify(|count| *count += 1);
        Counted(connections)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_node_is_busy_while_somebody_is_connected_or_a_pod_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let objects = Arc::new(Store::open(&directory.path().join("objects.redb")).unwrap());
        let connections = Connections::new();
        let socket = directory.path().join("api.sock");
        let mut listener = connections.listen(UnixListener::bind(&socket).unwrap());
        let client = UnixStream::connect(&socket).await.unwrap();
        let (server, ()) = axum::serve::Listener::accept(&mut listener).await;
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let pod = objects
            .create(Kind::Pod, json!({"metadata": {"name": "p"}, "spec": spec}))
            .unwrap();

        let idle = until_idle(&connections, &objects, || false);
        tokio::pin!(idle);
        let longer = IDLE_GRACE + Duration::from_millis(500);
        assert!(timeout(longer, &mut idle).await.is_err(), "a connection and a pod");
        drop((client, server));
        assert!(timeout(longer, &mut idle).await.is_err(), "a pod");
        objects.finalise(&pod.key(), pod.uid()).unwrap();
        let begin = Instant::now();
        idle.await.unwrap();
        assert!(begin.elapsed() >= IDLE_GRACE);
    }
}
