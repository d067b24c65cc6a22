//! The five capability sets.

use oci_spec::runtime::{Capability, Process};
use rustix::thread::CapabilitySet;

use super::step::Capabilities;

/// The sets that the config lists. A set that is not listed is empty, as the OCI text has it.
pub(crate) fn read(process: &Process) -> Capabilities {
    let all = process.capabilities().as_ref();
    let set = |list: Option<&Option<oci_spec::runtime::Capabilities>>| {
        list.and_then(Option::as_ref)
            .into_iter()
            .flatten()
            .fold(CapabilitySet::empty(), |set, c| set | bit(*c))
    };
    Capabilities {
        bounding: set(all.map(|a| a.bounding())),
        effective: set(all.map(|a| a.effective())),
        permitted: set(all.map(|a| a.permitted())),
        inheritable: set(all.map(|a| a.inheritable())),
        ambient: set(all.map(|a| a.ambient())),
    }
}

/// OCI's name and the kernel's are the same word.
fn bit(capability: Capability) -> CapabilitySet {
    let name = capability.to_string();
    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(&name)).unwrap_or(CapabilitySet::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_the_kernel_has_its_bit() {
        for (name, set) in CapabilitySet::all().iter_names() {
            let capability: Capability = name.parse().unwrap();
            assert_eq!(bit(capability), set, "{name}");
        }
    }
}
