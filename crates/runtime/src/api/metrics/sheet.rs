//! The metrics of one container, or of one pod as a whole.

use cri::v1::{Metric, UInt64Value};

use super::table::{BASE_LABELS, Descriptor};
use crate::container::Container;
use crate::sandbox::View;

/// Whom the metrics are about: the values of [`BASE_LABELS`], in their order.
pub(super) struct Who([String; BASE_LABELS.len()]);

impl Who {
    pub(super) fn pod(view: &View) -> Who {
        Who::new(view, view.record.id.as_str(), "", "")
    }

    pub(super) fn container(view: &View, container: &Container) -> Who {
        let record = &container.record;
        let name = record.config.metadata.as_ref().map_or("", |m| &m.name);
        let image = record
            .config
            .image
            .as_ref()
            .map_or("", |i| match i.user_specified_image.as_str() {
                "" => &i.image,
                written => written,
            });
        Who::new(view, record.id.as_str(), name, image)
    }

    fn new(view: &View, id: &str, container: &str, image: &str) -> Who {
        let record = &view.record;
        let pod = record.config.metadata.clone().unwrap_or_default();
        Who([
            container.into(),
            record.cgroup_path(id),
            image.into(),
            id.into(),
            pod.namespace,
            pod.name,
        ])
    }
}

/// Metrics that all are about the same.
pub(super) struct Sheet {
    who: Who,
    pub(super) metrics: Vec<Metric>,
}

impl Sheet {
    pub(super) fn new(who: Who) -> Self {
        Sheet {
            who,
            metrics: Vec::new(),
        }
    }

    /// Adds a value; `labels` are those of the metric's own.
    pub(super) fn put<const N: usize>(&mut self, of: &Descriptor, labels: [&str; N], value: u64) {
        debug_assert_eq!(N, of.labels.len(), "{}", of.name);
        let own = labels.into_iter().map(str::to_owned);
        self.metrics.push(Metric {
            name: of.name.into(),
            // 0: of now.
            timestamp: 0,
            metric_type: of.kind.into(),
            label_values: self.who.0.iter().cloned().chain(own).collect(),
            value: Some(UInt64Value { value }),
        });
    }
}
