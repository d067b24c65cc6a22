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

/// The one place that events come from, as some hear it: all of them, or only those of sandboxes that no engine of this
/// node owns.
#[derive(Clone)]
pub(crate) struct Events {
    sender: broadcast::Sender<ContainerEventResponse>,
    hides_owned: bool,
}

impl Events {
    pub(crate) fn new() -> Self {
        Events {
            sender: broadcast::Sender::new(EVENT_BACKLOG),
            hides_owned: false,
        }
    }

    /// The same events, without those of sandboxes that an engine of this node owns.
    pub(crate) fn without_owned(&self) -> Self {
        Events {
            sender: self.sender.clone(),
            hides_owned: true,
        }
    }

    /// Tells that something happened to `id`, a container of the sandbox or the sandbox itself, whose state is now
    /// `view`.
    pub(crate) fn tell(&self, kind: ContainerEventType, id: &str, view: &View) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        // An error means that the last subscriber went meanwhile.
        let _ = self.sender.send(ContainerEventResponse {
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
        let hides_owned = self.hides_owned;
        BroadcastStream::new(self.sender.subscribe())
            .take_while(move |event| {
                let go_on = !broken;
                broken = event.is_err();
                std::future::ready(go_on)
            })
            .filter(move |event| {
                let sandbox = event.as_ref().ok().and_then(|e| e.pod_sandbox_status.as_ref());
                let owned = sandbox.is_some_and(|s| s.labels.contains_key(cri::OWNER_LABEL));
                std::future::ready(!(hides_owned && owned))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads hears everything, whoever else does not; who does not is told so, and can begin anew.
    #[tokio::test]
    async fn a_slow_subscriber_loses_nothing_unheard() {
        let events = Events::new();
        let (mut quick, mut slow) = (events.subscribe(), events.subscribe());
        for number in 0..=EVENT_BACKLOG as i64 {
            let event = ContainerEventResponse {
                created_at: number,
                ..Default::default()
            };
            events.sender.send(event).unwrap();
            assert_eq!(quick.next().await.unwrap().unwrap().created_at, number);
        }
        let told = slow.next().await.unwrap().unwrap_err();
        assert_eq!(told.kind, ErrorKind::ResourceExhausted);
        assert!(told.message.contains("1 events were dropped"), "{told}");
        assert!(slow.next().await.is_none(), "its stream has ended");

        // Within the bound, nothing is lost.
        let mut late = events.subscribe();
        for number in 0..EVENT_BACKLOG as i64 {
            let event = ContainerEventResponse {
                created_at: number,
                ..Default::default()
            };
            events.sender.send(event).unwrap();
        }
        for number in 0..EVENT_BACKLOG as i64 {
            assert_eq!(late.next().await.unwrap().unwrap().created_at, number);
        }
    }
}
