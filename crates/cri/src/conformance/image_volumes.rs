//! Images whose files are mounted into containers (KEP-4639).

use super::{Outcome, Subject, said};
use crate::ErrorKind;
use crate::v1::*;

/// Where they are mounted.
const AT: &str = "/volume";

pub(super) async fn an_image_is_a_read_only_volume(s: &Subject) -> Outcome {
    let config = s.sandbox("image-volume");
    let sandbox = said(s.run(&config).await)?;
    let id = said(s.create(&sandbox, &config, s.with_volume("main", s.volume())).await)?;

    let image = s.image_id().await?;
    let mounts = s.status(&id).await?.mounts;
    let mounted = mounts
        .iter()
        .find(|m| m.container_path == AT)
        .and_then(|m| m.image.as_ref());
    ensure!(
        mounted.is_some_and(|i| i.image_ref == image && i.image == s.image),
        "the mount's image_ref is not {image}: {mounted:?}"
    );

    said(s.start(&id).await)?;
    let runs = s.script(&id, "/volume/bin/sh -c 'exit 0'").await?;
    ensure!(runs.exit_code == 0, "what is in it can't be executed: {runs:?}");
    let written = s.script(&id, "echo x > /volume/new").await?;
    ensure!(
        written.exit_code != 0 && String::from_utf8_lossy(&written.stderr).contains("Read-only file system"),
        "it can be written to: {written:?}"
    );
    s.drop_sandbox(&sandbox).await
}

pub(super) async fn a_part_of_an_image_is_a_volume(s: &Subject) -> Outcome {
    let config = s.sandbox("image-part");
    let sandbox = said(s.run(&config).await)?;
    let etc = Mount {
        image_sub_path: "etc".into(),
        ..s.volume()
    };
    let id = said(s.create(&sandbox, &config, s.with_volume("main", etc)).await)?;
    said(s.start(&id).await)?;
    let found = s.script(&id, "test -f /volume/passwd && test ! -e /volume/etc").await?;
    ensure!(found.exit_code == 0, "not the image's /etc: {found:?}");

    let absent = Mount {
        image_sub_path: "no/such/part".into(),
        ..s.volume()
    };
    match s.create(&sandbox, &config, s.with_volume("absent", absent)).await {
        Ok(_) => return Err("a part that the image does not have is taken".into()),
        // The word by which kubelet knows it (cri-api/pkg/errors).
        Err(e) => ensure!(
            e.message.contains("ImageVolumeMountFailed") && e.message.contains("no/such/part"),
            "{e}"
        ),
    }
    s.drop_sandbox(&sandbox).await
}

pub(super) async fn an_image_volume_that_can_not_be_is_refused(s: &Subject) -> Outcome {
    let config = s.sandbox("image-refused");
    let sandbox = said(s.run(&config).await)?;
    let refused = [
        (
            "writable",
            ErrorKind::InvalidArgument,
            Mount {
                readonly: false,
                ..s.volume()
            },
        ),
        (
            "host",
            ErrorKind::InvalidArgument,
            Mount {
                host_path: "/".into(),
                ..s.volume()
            },
        ),
        (
            "out",
            ErrorKind::InvalidArgument,
            Mount {
                image_sub_path: "../out".into(),
                ..s.volume()
            },
        ),
        (
            "missing",
            ErrorKind::NotFound,
            Mount {
                image: Some(ImageSpec {
                    image: "conformance.invalid/nothing:none".into(),
                    ..Default::default()
                }),
                ..s.volume()
            },
        ),
    ];
    for (name, kind, mount) in refused {
        let outcome = s.create(&sandbox, &config, s.with_volume(name, mount)).await;
        super::refused(outcome, kind).map_err(|why| format!("{name}: {why}"))?;
    }
    s.drop_sandbox(&sandbox).await
}

impl Subject {
    /// The suite's image, whole.
    fn volume(&self) -> Mount {
        Mount {
            container_path: AT.into(),
            readonly: true,
            image: Some(self.image_spec()),
            ..Default::default()
        }
    }

    fn with_volume(&self, name: &str, volume: Mount) -> ContainerConfig {
        ContainerConfig {
            mounts: vec![volume],
            ..self.shell(name, "exec sleep 1000")
        }
    }

    async fn script(&self, container: &str, script: &str) -> Result<ExecSyncResponse, String> {
        let exec = ExecSyncRequest {
            container_id: container.into(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: 20,
        };
        said(self.runtime.exec_sync(exec).await)
    }
}
