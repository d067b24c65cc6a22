//! The labels and annotations by which a pod is found again from the CRI alone. Those of kubelet, so that every tool that reads
//! them (crictl, log collectors, cAdvisor) knows Hove's pods too, and some of Hove's own.

/// On sandboxes and containers: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// On sandboxes and containers: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// On sandboxes and containers: the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// On containers: the container's name in the pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// On sandboxes and containers: which engine they belong to. An engine touches no others.
pub use cri::OWNER_LABEL as OWNER;
/// The owner of what this engine makes.
pub const OWNER_SYNC: &str = "sync";

/// Annotation of containers: a hash of what the container was made from.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation of containers: how often it was restarted before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation of containers: where the host sees its terminationMessagePath.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation of containers: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation of containers: the pod's grace period in seconds, for when the object is lost.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation of containers: how many seconds to wait, once it has ended, before it is started again.
pub const RESTART_DELAY: &str = "hove.dev/restart-delay-seconds";
/// Annotation of sandboxes: `file`, `http` or `api`, as kubelet's `kubernetes.io/config.source`.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
