//! Names of sandboxes and containers. Two types, so that one is never taken for the other.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new one: 16 random bytes as 32 lower-case hexadecimal digits, so that a socket's path below the
            /// state directory stays within the kernel's 108 bytes.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                // getrandom(2) can't fail on a kernel that has it (3.17) and a pool that is initialised, which it is
                // long before a node runs.
                getrandom::fill(&mut bytes).expect("getrandom(2) answers on every kernel that runs Hove");
                Self(hex::encode(bytes))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }
    };
}

id! {
    /// A sandbox's id.
    SandboxId
}
id! {
    /// A container's id.
    ContainerId
}
