//! The suite that any implementation of the CRI has to pass.

use cri::conformance::{Subject, run};

use crate::host::{IMAGE, on_a_host};

#[test]
fn the_runtime_conforms() {
    on_a_host(|host| async move {
        let subject = Subject {
            runtime: host.runtime.clone(),
            images: host.runtime.clone(),
            image: IMAGE.into(),
            logs: host.dir.path().join("logs"),
        };
        assert_eq!(run(&subject).await, []);
    });
}
