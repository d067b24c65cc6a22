//! User, groups and capabilities.

use rustix::fs::{Gid, Uid};
use rustix::io::{Errno, Result};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::handshake::{MAX_GROUPS, Packed};
use crate::plan::Capabilities;

/// Root in a user namespace: until then every id of ours is the overflow id there.
pub(super) fn become_root() -> Result<()> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Drops from the bounding set what is not kept.
pub(super) fn drop_bounding(keep: CapabilitySet) -> Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Groups before the user: afterwards the right to change them is gone. The permitted set is kept across.
pub(super) fn switch_user(identity: &Packed) -> Result<()> {
    let mut groups = [Gid::ROOT; MAX_GROUPS];
    for (group, raw) in groups.iter_mut().zip(identity.groups()) {
        *group = Gid::from_raw(*raw);
    }
    rustix::thread::set_thread_groups(&groups[..identity.groups().len()])?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_keep_capabilities(true)?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)
}

/// All that is permitted becomes effective again: changing the user had cleared it.
pub(super) fn raise_permitted() -> Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: sets.permitted,
            ..sets
        },
    )
}

/// Sets the four sets of the thread. What the caller does not have it cannot give: returns those bits.
pub(super) fn set_capabilities(wanted: &Capabilities) -> Result<u64> {
    let have = rustix::thread::capabilities(None)?.permitted;
    let sets = CapabilitySets {
        effective: wanted.effective & have,
        permitted: wanted.permitted & have,
        inheritable: wanted.inheritable & have,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::clear_ambient_capability_set()?;
    // Ambient ones must be permitted and inheritable.
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if (wanted.ambient & have).contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    let asked = wanted.effective | wanted.permitted | wanted.ambient;
    Ok(asked.difference(have).bits())
}
