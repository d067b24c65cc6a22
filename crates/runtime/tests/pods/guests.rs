//! What callers from outside see of the pods that an engine of the node owns: nothing.

use cri::v1::*;
use cri::{ErrorKind, ImageService, RuntimeService};
use futures_util::StreamExt;

use crate::host::on_a_host;

#[test]
fn a_guest_sees_only_what_nobody_owns() {
    on_a_host(|host| async move {
        let guests = host.runtime.for_guests();
        let mut heard = guests.get_container_events(GetEventsRequest {}).await.unwrap();
        let mut owned = host.pod("owned");
        owned.labels.insert(cri::OWNER_LABEL.into(), "sync".into());
        let owned = host.run(owned).await.unwrap();
        let theirs = host.run(host.pod("theirs")).await.unwrap();

        let listed = |runtime: std::sync::Arc<runtime::Runtime>| async move {
            let all = runtime.list_pod_sandbox(Default::default()).await.unwrap().items;
            all.into_iter().map(|s| s.id).collect::<Vec<_>>()
        };
        assert_eq!(listed(guests.clone()).await, std::slice::from_ref(&theirs));
        assert_eq!(listed(host.runtime.clone()).await.len(), 2);

        let status = PodSandboxStatusRequest {
            pod_sandbox_id: owned.clone(),
            ..Default::default()
        };
        let hidden = guests.pod_sandbox_status(status.clone()).await.unwrap_err();
        assert_eq!(hidden.kind, ErrorKind::NotFound);
        // An image that only a hidden container uses looks unused to who collects such.
        let pinned = |runtime: std::sync::Arc<runtime::Runtime>| async move {
            let images = runtime.list_images(ListImagesRequest::default()).await.unwrap().images;
            images[0].pinned
        };
        assert!(!pinned(guests.clone()).await);
        let container = host.shell(&owned, "main", "exec sleep 1000").await;
        assert!(pinned(guests.clone()).await);
        assert!(!pinned(host.runtime.clone()).await);
        host.remove_container(&container).await.unwrap();
        assert!(!pinned(guests.clone()).await);

        // What is not there is stopped and removed already: it answers so, and nothing happens.
        let stop = StopPodSandboxRequest {
            pod_sandbox_id: owned.clone(),
        };
        guests.stop_pod_sandbox(stop).await.unwrap();
        let seen = host.runtime.pod_sandbox_status(status).await.unwrap().status.unwrap();
        assert_eq!(seen.state(), PodSandboxState::SandboxReady);

        // The owned one was made first: were its events told, they would come first.
        let first = heard.next().await.unwrap().unwrap();
        assert_eq!(first.pod_sandbox_status.unwrap().id, theirs);
        host.remove(&owned).await.unwrap();
        host.remove(&theirs).await.unwrap();
    });
}
