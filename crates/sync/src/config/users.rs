//! `hostUsers: false`: the ids of a pod that has a user namespace of its own
//! (<https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/>).
//!
//! Root in the pod is an id on the host that nobody else has, and so is every other of its [`LENGTH`] users and groups. Its mounts are
//! mapped back, so that a volume belongs to the ids that the pod knows, whichever the pod's are on the host.

use cri::v1::{ContainerConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace};

/// How many ids a pod has: those that programs count on (nobody is 65534).
pub const LENGTH: u32 = 65536;

/// The ids that are given to pods: a range that neither distributions' users, nor `/etc/subuid`, nor systemd's containers use
/// (<https://systemd.io/UIDS-GIDS/>).
const FIRST: u32 = 0x7000_0000;
const END: u32 = 0x8000_0000;

/// What the ids of a pod begin with on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserIds(pub u32);

impl UserIds {
    /// The first ones of which none is in a range that is taken: (first id, how many).
    pub fn choose(taken: &[(u32, u32)]) -> Option<UserIds> {
        let is_free = |first: &u32| {
            let overlaps =
                |(other, length): &(u32, u32)| *first < other.saturating_add(*length) && *other < first + LENGTH;
            !taken.iter().any(overlaps)
        };
        let mut all = (FIRST..END).step_by(LENGTH as usize);
        all.find(is_free).map(UserIds)
    }

    /// Puts a sandbox into a user namespace with these ids.
    pub fn give_to_sandbox(self, config: &mut PodSandboxConfig) {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        self.set(security.namespace_options.get_or_insert_default());
    }

    /// The same for a container of such a sandbox, and for what is mounted into it.
    pub fn give_to_container(self, config: &mut ContainerConfig) {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        self.set(security.namespace_options.get_or_insert_default());
        for mount in &mut config.mounts {
            mount.uid_mappings = self.mappings();
            mount.gid_mappings = self.mappings();
        }
    }

    fn set(self, options: &mut NamespaceOption) {
        options.userns_options = Some(UserNamespace {
            mode: NamespaceMode::Pod as i32,
            uids: self.mappings(),
            gids: self.mappings(),
        });
    }

    fn mappings(self) -> Vec<IdMapping> {
        vec![IdMapping {
            host_id: self.0,
            container_id: 0,
            length: LENGTH,
        }]
    }
}

/// The ranges of ids that a sandbox has: (first id, how many).
pub fn ranges(options: &NamespaceOption) -> impl Iterator<Item = (u32, u32)> {
    let own = options.userns_options.iter();
    own.filter(|users| users.mode == NamespaceMode::Pod as i32)
        .flat_map(|users| users.uids.iter().chain(&users.gids))
        .map(|range| (range.host_id, range.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_overlap_and_are_used_again() {
        let choose = |taken: &[(u32, u32)]| UserIds::choose(taken).map(|ids| ids.0);
        assert_eq!(choose(&[]), Some(FIRST));
        assert_eq!(choose(&[(FIRST, LENGTH)]), Some(FIRST + LENGTH));
        assert_eq!(choose(&[(FIRST + LENGTH, LENGTH)]), Some(FIRST));
        // Somebody else's, across two of ours.
        assert_eq!(choose(&[(FIRST + 100, LENGTH)]), Some(FIRST + 2 * LENGTH));
        assert_eq!(choose(&[(0, LENGTH), (u32::MAX - 1, 1)]), Some(FIRST));
        assert_eq!(choose(&[(FIRST, END - FIRST)]), None);
        assert_eq!(choose(&[(FIRST, END - FIRST - 1)]), None);
        assert_eq!(choose(&[(FIRST, END - FIRST - LENGTH)]), Some(END - LENGTH));
    }
}
