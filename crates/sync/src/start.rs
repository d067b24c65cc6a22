//! Starting one container: image, files, create, start.

use std::time::Instant;

use cri::{ErrorKind, v1};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use objects::EventType;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{container, security, users::UserIds},
    decide::Start,
    engine::Shared,
    files,
    report::{Reporter, took},
};

/// Where a container is started.
pub(crate) struct Place<'a> {
    pub sandbox_id: &'a str,
    pub sandbox_config: &'a v1::PodSandboxConfig,
    pub pod_ips: &'a [String],
    pub volumes: &'a std::collections::BTreeMap<String, std::path::PathBuf>,
    /// The sandbox's ids on the host, if it has a user namespace of its own.
    pub users: Option<UserIds>,
    /// Ends a pull.
    pub interrupt: &'a CancellationToken,
}

/// Why a container was not started: the reason of its waiting state, and a sentence.
pub(crate) struct NotStarted {
    pub reason: &'static str,
    pub message: String,
    /// The container exists and has ended: its end is in the CRI, and the restartPolicy decides.
    pub has_ended: bool,
}

/// Starts the container that was decided on.
pub(crate) async fn start_container(
    shared: &Shared,
    pod: &Pod,
    spec: &Spec,
    start: &Start,
    place: &Place<'_>,
) -> Result<(), NotStarted> {
    let reporter = Reporter::of(&shared.recorder, pod);
    let id = match &start.made {
        Some(id) => id.clone(),
        None => create(shared, &reporter, pod, spec, start, place).await?,
    };
    let begin = Instant::now();
    let request = v1::StartContainerRequest {
        container_id: id.clone(),
    };
    match shared.runtime.start_container(request).await {
        Ok(_) => {
            let message = format!("Started container {} in {}", spec.name, took(begin.elapsed()));
            reporter.container(&spec.name, EventType::Normal, "Started", &message);
            Ok(())
        }
        Err(error) => {
            let message = format!("Container {} could not be started: {error}", spec.name);
            reporter.container(&spec.name, EventType::Warning, "Failed", &message);
            let status = shared
                .runtime
                .container_status(v1::ContainerStatusRequest {
                    container_id: id,
                    ..Default::default()
                })
                .await;
            let state = status
                .ok()
                .and_then(|response| response.status)
                .map(|status| status.state);
            let has_ended = state == Some(v1::ContainerState::ContainerExited as i32);
            Err(NotStarted {
                reason: "RunContainerError",
                message: error.message,
                has_ended,
            })
        }
    }
}

async fn create(
    shared: &Shared,
    reporter: &Reporter<'_>,
    pod: &Pod,
    spec: &Spec,
    start: &Start,
    place: &Place<'_>,
) -> Result<String, NotStarted> {
    let failed = |reason: &'static str, message: String| {
        let text = format!("Container {} could not be created: {message}", spec.name);
        reporter.container(&spec.name, EventType::Warning, "Failed", &text);
        NotStarted {
            reason,
            message,
            has_ended: false,
        }
    };
    let image = ensure_image(shared, reporter, spec, place).await?;
    let pod_spec = pod.spec.clone().unwrap_or_default();
    security::check_non_root(&pod_spec, spec, &image)
        .map_err(|message| failed("CreateContainerConfigError", message))?;
    files::make_container_files(pod, &spec.name, start.attempt, place.pod_ips, &shared.node)
        .map_err(|error| failed("CreateContainerConfigError", error.to_string()))?;
    let around = container::Surroundings {
        node: &shared.node,
        pod_ips: place.pod_ips,
        volumes: place.volumes,
        image_id: &image.id,
    };
    let mut config = container::config(pod, spec, start, &around)
        .map_err(|message| failed("CreateContainerConfigError", message))?;
    if let Some(users) = place.users {
        users.give_to_container(&mut config);
    }
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: place.sandbox_id.to_owned(),
        config: Some(config),
        sandbox_config: Some(place.sandbox_config.clone()),
    };
    let begin = Instant::now();
    let response = shared
        .runtime
        .create_container(request)
        .await
        .map_err(|error| failed("CreateContainerError", error.message))?;
    let message = format!("Created container {} in {}", spec.name, took(begin.elapsed()));
    reporter.container(&spec.name, EventType::Normal, "Created", &message);
    Ok(response.container_id)
}

/// Finds the image, or pulls it, as the imagePullPolicy says (<https://kubernetes.io/docs/concepts/containers/images/>).
async fn ensure_image(
    shared: &Shared,
    reporter: &Reporter<'_>,
    spec: &Spec,
    place: &Place<'_>,
) -> Result<v1::Image, NotStarted> {
    let name = spec.image.clone().unwrap_or_default();
    let image = v1::ImageSpec {
        image: name.clone(),
        user_specified_image: name.clone(),
        ..Default::default()
    };
    let fail = |reason: &'static str, message: String| {
        let text = match reason {
            "ErrImagePull" => format!("Failed to pull image \"{name}\": {message}"),
            _ => format!("Container {} could not be created: {message} ({reason})", spec.name),
        };
        reporter.container(&spec.name, EventType::Warning, "Failed", &text);
        NotStarted {
            reason,
            message,
            has_ended: false,
        }
    };
    let find = || async {
        let request = v1::ImageStatusRequest {
            image: Some(image.clone()),
            ..Default::default()
        };
        match shared.images.image_status(request).await {
            Ok(response) => Ok(response.image),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind == ErrorKind::InvalidArgument => Err(fail("InvalidImageName", error.message)),
            Err(error) => Err(fail("ImageInspectError", error.message)),
        }
    };
    let present = find().await?;
    let policy = spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (policy, present) {
        ("Always", present) => match pull(shared, reporter, spec, &image, place).await {
            Ok(()) => find()
                .await?
                .ok_or_else(|| fail("ErrImagePull", format!("image \"{name}\" was pulled and is not there"))),
            // A node that can't pull at all has what was imported into it, and that is what it can run.
            Err(error) if error.kind == ErrorKind::Unimplemented => present
                .inspect(|_| {
                    let message =
                        format!("Container image \"{name}\" already present on machine (this node does not pull)");
                    reporter.container(&spec.name, EventType::Normal, "Pulled", &message);
                })
                .ok_or_else(|| fail("ErrImagePull", absent(&name, &error.message))),
            Err(error) => Err(fail("ErrImagePull", error.message)),
        },
        (_, Some(present)) => {
            let message = format!("Container image \"{name}\" already present on machine");
            reporter.container(&spec.name, EventType::Normal, "Pulled", &message);
            Ok(present)
        }
        ("Never", None) => Err(fail(
            "ErrImageNeverPull",
            format!("Container image \"{name}\" is not present with pull policy of Never"),
        )),
        (_, None) => match pull(shared, reporter, spec, &image, place).await {
            Ok(()) => find()
                .await?
                .ok_or_else(|| fail("ErrImagePull", format!("image \"{name}\" was pulled and is not there"))),
            Err(error) if error.kind == ErrorKind::Unimplemented => {
                Err(fail("ErrImagePull", absent(&name, &error.message)))
            }
            Err(error) => Err(fail("ErrImagePull", error.message)),
        },
    }
}

fn absent(name: &str, why: &str) -> String {
    format!("image \"{name}\" is not on this node, and {why}; import it with `hove image import FILE`")
}

async fn pull(
    shared: &Shared,
    reporter: &Reporter<'_>,
    spec: &Spec,
    image: &v1::ImageSpec,
    place: &Place<'_>,
) -> cri::Result<()> {
    let begin = Instant::now();
    reporter.container(
        &spec.name,
        EventType::Normal,
        "Pulling",
        &format!("Pulling image \"{}\"", image.image),
    );
    let request = v1::PullImageRequest {
        image: Some(image.clone()),
        sandbox_config: Some(place.sandbox_config.clone()),
        ..Default::default()
    };
    let interrupted = || cri::Error::new(ErrorKind::Unavailable, "the pull was interrupted");
    place
        .interrupt
        .run_until_cancelled(shared.images.pull_image(request))
        .await
        .ok_or_else(interrupted)??;
    let message = format!(
        "Successfully pulled image \"{}\" in {}",
        image.image,
        took(begin.elapsed())
    );
    reporter.container(&spec.name, EventType::Normal, "Pulled", &message);
    Ok(())
}
