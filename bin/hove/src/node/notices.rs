//! What the runtime has to tell people about pods (a log that can't be written, a supervisor that was replaced) becomes events,
//! where `describe` and `hove run` show it.

use k8s_openapi::api::core::v1::ObjectReference;
use objects::{EventType, Recorder};
use runtime::Notice;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Records notices until the runtime is gone.
pub async fn record(mut notices: Receiver<Notice>, recorder: Recorder) {
    loop {
        match notices.recv().await {
            Ok(notice) => recorder.record(&reference(&notice), EventType::Warning, &notice.reason, &notice.message),
            Err(RecvError::Lagged(lost)) => tracing::warn!("{lost} notices of the runtime came too fast and are lost"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// What an event is about: a pod, or a container of it.
fn reference(notice: &Notice) -> ObjectReference {
    let container = Some(&notice.container).filter(|name| !name.is_empty());
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(notice.namespace.clone()),
        name: Some(notice.name.clone()),
        uid: Some(notice.uid.clone()),
        field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Event;
    use objects::{Kind, Scope, Store};
    use tokio::sync::broadcast::Sender;

    use super::*;

    #[tokio::test]
    async fn a_notice_becomes_a_warning_about_its_container() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("objects.redb")).unwrap());
        let recorder = Recorder::new(store.clone(), "hove").unwrap();
        let notices = Sender::new(4);
        let recording = tokio::spawn(record(notices.subscribe(), recorder));
        let notice = Notice {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u-1".into(),
            container: "nginx".into(),
            reason: "LogNotWritable".into(),
            message: "No space left on device".into(),
        };
        notices.send(notice).unwrap();
        drop(notices);
        recording.await.unwrap();
        let (events, _) = store.list(&Scope::all(Kind::Event)).unwrap();
        let event: Event = events[0].decode().unwrap();
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reason.as_deref(), Some("LogNotWritable"));
        assert_eq!(event.involved_object.uid.as_deref(), Some("u-1"));
        assert_eq!(
            event.involved_object.field_path.as_deref(),
            Some("spec.containers{nginx}")
        );
    }
}
