//! ListMetricDescriptors, ListPodSandboxMetrics: what cAdvisor would have measured, so that nothing else has to walk the
//! node's cgroups. Everything is read when it is asked for; so no value has a timestamp.

mod reading;
mod sheet;
mod table;
mod values;

use std::sync::Arc;

use cri::v1::{ContainerMetrics, ListMetricDescriptorsResponse, PodSandboxMetrics};

use super::links;
use crate::blocking::blocking;
use crate::container::Container;
use crate::node::Node;
use crate::sandbox::{Phase, View};
use reading::{Disks, Reading};
use sheet::{Sheet, Who};

pub(super) fn descriptors() -> ListMetricDescriptorsResponse {
    ListMetricDescriptorsResponse {
        descriptors: table::ALL.iter().map(|d| d.to_cri()).collect(),
    }
}

/// Of all sandboxes that are ready.
pub(super) async fn sandboxes(node: &Arc<Node>) -> Vec<PodSandboxMetrics> {
    let node = node.clone();
    blocking(move || {
        let disks = Disks::find();
        let views = node.registry.sandboxes().into_iter().map(|s| s.view());
        let ready = views.filter(|v| matches!(v.phase, Phase::Ready));
        ready.map(|v| of_sandbox(&node, &v, &disks)).collect()
    })
    .await
}

fn of_sandbox(node: &Node, view: &View, disks: &Disks) -> PodSandboxMetrics {
    let mut sheet = Sheet::new(Who::pod(view));
    for link in links::of_pod(view).unwrap_or_default() {
        values::link(&mut sheet, &link);
    }
    let running = view.containers.values().filter(|c| c.is_running());
    PodSandboxMetrics {
        pod_sandbox_id: view.record.id.to_string(),
        metrics: sheet.metrics,
        container_metrics: running.map(|c| of_container(node, view, c, disks)).collect(),
    }
}

fn of_container(node: &Node, view: &View, container: &Container, disks: &Disks) -> ContainerMetrics {
    let mut sheet = Sheet::new(Who::container(view, container));
    values::container(
        &mut sheet,
        &Reading::take(node, view, container, disks),
        &container.record,
    );
    ContainerMetrics {
        container_id: container.record.id.to_string(),
        metrics: sheet.metrics,
    }
}
