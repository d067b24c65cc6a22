//! What GetContainerEvents tells: a change in a container's or a sandbox's life, to every subscriber.

use cri::v1::{ContainerEventResponse, ContainerEventType};
use cri::{Error, ErrorKind, Result};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::sandbox::View;
use crate::status;

/// How far a subscriber may fall behind before its stream ends with an error that tells it to list anew.
pub(crate) const EVENT_BACKLOG: usize = 4096;

/// The one place that events come from.
pub(crate) struct Events(broadcast::Sender<ContainerEventResponse>);

impl Events {
    pub(crate) fn new() -> Self {
        Events(broadcast::Sender::new(EVENT_BACKLOG))
    }

    /// Tells that something happened to `id`, a container of the sandbox or the sandbox itself, whose state is now
    /// `view`.
    pub(crate) fn tell(&self, kind: ContainerEventType, id: &str, view: &View) {
        if self.0.receiver_count() == 0 {
            return;
        }
        // An error means that the last subscriber went meanwhile.
        let _ = self.0.send(ContainerEventResponse {
            container_id: id.into(),
            container_event_type: kind.into(),
            created_at: crate::clock::now_ns(),
            pod_sandbox_status: Some(status::sandbox(view)),
            containers_statuses: view.containers.values().map(|c| status::container(c)).collect(),
        });
    }

    /// What happens from now on.
    pub(crate) fn subscribe(&self) -> BoxStream<'static, Result<ContainerEventResponse>> {
        let mut broken = false;
        BroadcastStream::new(self.0.subscribe())
            .take_while(move |event| {
                let go_on = !broken;
                broken = event.is_err();
                std::future::ready(go_on)
            })
            .map(|event| {
                event.map_err(|BroadcastStreamRecvError::Lagged(missed)| {
                    Error::new(
                        ErrorKind::ResourceExhausted,
                        format!("the subscriber is too slow: {missed} events were dropped; list the containers anew"),
                    )
                })
            })
            .boxed()
    }
}
