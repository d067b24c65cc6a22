//! containerd.services.events.ttrpc.v1.Events: what another shim publishes. Of all that, only an OOM kill is news: ends are told
//! by Wait.

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::events::task::TaskOOM;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::Events;
use protobuf::Message;
use tokio::sync::mpsc;
use ttrpc::r#async::TtrpcContext;

use super::Report;
use crate::event::{Event, Key};

/// The topic of an OOM kill.
const OOM: &str = "/tasks/oom";

/// The service.
pub struct EventsService(pub mpsc::UnboundedSender<Event>);

#[async_trait]
impl Events for EventsService {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        if envelope.topic == OOM
            && let Ok(oom) = TaskOOM::parse_from_bytes(&envelope.event.value)
        {
            // The state machine is gone only when the shim ends.
            let _ = self
                .0
                .send(Event::Foreign(Key::Container(oom.container_id), Ok(Report::Oom)));
        }
        Ok(Empty::new())
    }
}
