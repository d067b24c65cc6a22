//! The cgroups of pods that another runtime runs. Each pod has one, which that runtime makes as the parent of its containers'; it
//! takes away only those, and leaves the pod's own to whoever named it, as it does with a kubelet.

use std::sync::Arc;

use cgroup::{Cgroup, Hierarchies};
use objects::{Kind, Scope, Store, WatchEvent};

/// Takes the cgroup of each pod away that goes from now on, until the store is closed. `parent`: the one above all of them.
pub async fn remove_with_their_pods(objects: Arc<Store>, parent: String) {
    let mut version = Some(objects.version());
    loop {
        let mut pods = match objects.watch(Scope::all(Kind::Pod), version) {
            Ok(pods) => pods,
            // It has missed some: theirs stay.
            Err(objects::Error::Expired { .. }) => {
                version = Some(objects.version());
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "the cgroups of pods that go will be left");
                return;
            }
        };
        loop {
            match pods.next().await {
                Some(Ok(WatchEvent::Deleted(pod))) => {
                    let path = sync::config::sandbox::pod_cgroup(&parent, pod.uid());
                    let removed = tokio::task::spawn_blocking(move || remove(&path)).await;
                    if let Ok(Err(error)) = removed {
                        tracing::warn!(%error, "the cgroup of a pod that has gone is left");
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => break,
                None => return,
            }
        }
        version = Some(objects.version());
    }
}

/// One that holds a process is not taken away.
fn remove(path: &str) -> cgroup::Result<()> {
    match Cgroup::open(&Hierarchies::detect()?, path) {
        Ok(cgroup) => cgroup.remove(),
        Err(cgroup::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pods_cgroup_goes_with_it_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("objects.redb")).unwrap());
        let hierarchies = Hierarchies::detect().unwrap();
        let parent = format!("/hove-pod-cgroups-{}", std::process::id());
        let mut made = Vec::new();
        for name in ["goes", "stays"] {
            let pod =
                serde_json::json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": []}});
            let object = store.create(Kind::Pod, pod).unwrap();
            let path = sync::config::sandbox::pod_cgroup(&parent, object.uid());
            Cgroup::create(&hierarchies, &path).unwrap();
            made.push((object, path));
        }
        let removing = tokio::spawn(remove_with_their_pods(store.clone(), parent.clone()));
        // It must watch before the first goes.
        tokio::task::yield_now().await;
        let (goes, path) = &made[0];
        store.finalise(&goes.key(), goes.uid()).unwrap();
        let gone = async {
            while Cgroup::open(&hierarchies, path).is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), gone)
            .await
            .expect("the cgroup is left");
        assert!(Cgroup::open(&hierarchies, &made[1].1).is_ok());
        removing.abort();
        Cgroup::open(&hierarchies, &parent).unwrap().remove().unwrap();
    }
}
