//! The seccomp filter of a real container, by the annotation that the node sets.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Pod, Spec, read_log, sh};

/// What a filter of Hove's own is asked for with: the process has no capability and may not gain any, so that without a
/// filter the kernel would let it make a user namespace, and with one it is the filter that says no.
fn confined(command: &str, profile: Option<&'static str>) -> Spec {
    sh(command).with(move |config| {
        config["process"]["capabilities"] = serde_json::json!({});
        if let Some(profile) = profile {
            config["annotations"] = serde_json::json!({"dev.hove.seccomp": profile});
        }
    })
}

const PROBE: &str = "grep ^Seccomp: /proc/self/status; unshare -U true 2>&1; echo $?";

#[tokio::test]
async fn the_default_profile_denies_and_an_exec_gets_it_too() {
    let pod = Pod::start(false).await;
    let denied = "Seccomp:\t2\nunshare: unshare(0x10000000): Operation not permitted\n1\n";
    let allowed = "Seccomp:\t0\n0\n";
    for (container, profile, expected) in [("free", None, allowed), ("confined", Some("runtime-default"), denied)] {
        pod.run(container, confined(&format!("{PROBE}; exec sleep 1000"), profile))
            .await;
        let log = pod.bundle(container).join("0.log");
        support::eventually("the probe has ended", || {
            read_log(&log, &Default::default()).lines().count() == expected.lines().count()
        })
        .await;
        assert_eq!(read_log(&log, &Default::default()), expected, "{container}");
        assert_eq!(
            pod.exec(container, "e", PROBE, "").await.stdout,
            expected,
            "exec in {container}"
        );
    }
    assert_eq!(pod.shut_down().await, 0);
}

#[tokio::test]
async fn an_unknown_profile_is_refused() {
    let pod = Pod::start(false).await;
    let why = pod
        .create("a", confined("true", Some("docker/default")))
        .await
        .unwrap_err();
    assert_eq!(why.kind, shim_api::Kind::Invalid);
    assert!(why.message.contains("docker/default"), "{why}");
    assert_eq!(pod.shut_down().await, 0);
}
