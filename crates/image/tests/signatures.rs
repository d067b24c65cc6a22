//! Images that must be signed: as cosign 2 and cosign 3 sign them, with openssl's hands.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::Digest;
use image::registry::{Error, Trust, TrustRule, Verdict};
use serde_json::json;
use support::registry::{DockerRegistry, Node, archive};
use support::shell;

const REPOSITORY: &str = "team/app";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

/// Makes the keys `ours` and `theirs`, `.pem` and `.pub` of each.
fn keys(dir: &Path) {
    shell(&format!(
        "cd {} && for key in ours theirs; do openssl ecparam -genkey -name prime256v1 -noout -out $key.pem && \
         openssl ec -in $key.pem -pubout -out $key.pub; done",
        dir.display()
    ));
}

/// A key's signature of some bytes, base64.
fn signature(dir: &Path, key: &str, bytes: &[u8]) -> String {
    std::fs::write(dir.join("bytes"), bytes).unwrap();
    shell(&format!(
        "cd {} && openssl dgst -sha256 -sign {key}.pem -out signature bytes",
        dir.display()
    ));
    STANDARD.encode(std::fs::read(dir.join("signature")).unwrap())
}

/// Puts an artifact's manifest there, under its digest or a tag; answers it, described as in a list.
fn put_artifact(registry: &DockerRegistry, tag: Option<&str>, mut manifest: serde_json::Value) -> serde_json::Value {
    manifest["schemaVersion"] = 2.into();
    manifest["mediaType"] = MANIFEST.into();
    let bytes = manifest.to_string();
    let digest = Digest::of(bytes.as_bytes()).to_string();
    registry.put_manifest(REPOSITORY, tag.unwrap_or(&digest), MANIFEST, bytes.as_bytes());
    json!({"mediaType": MANIFEST, "digest": digest, "size": bytes.len(), "artifactType": manifest["artifactType"]})
}

/// Signs `image` as cosign 2 does it, saying that it were `claimed`.
fn sign(registry: &DockerRegistry, dir: &Path, image: &Digest, claimed: &Digest, key: &str) {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": ""},
            "image": {"docker-manifest-digest": claimed.to_string()},
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let payload = payload.to_string();
    let layer = json!({
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "size": payload.len(),
        "digest": registry.put_blob(REPOSITORY, payload.as_bytes()).to_string(),
        "annotations": {"dev.cosignproject.cosign/signature": signature(dir, key, payload.as_bytes())},
    });
    let config = registry.put_blob(REPOSITORY, b"{}").to_string();
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": config});
    let tag = format!("sha256-{}.sig", image.hex());
    put_artifact(registry, Some(&tag), json!({"config": config, "layers": [layer]}));
}

/// Signs a statement about `claimed` as cosign 3 does it, and makes it refer to `image`; answers the artifact's description.
fn attest(
    registry: &DockerRegistry,
    dir: &Path,
    image: &Digest,
    claimed: &Digest,
    key: &str,
    predicate: &str,
) -> serde_json::Value {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": claimed.hex()}}],
        "predicateType": predicate,
        "predicate": {},
    });
    let (statement, kind) = (statement.to_string(), "application/vnd.in-toto+json");
    let signed = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "a key"}},
        "dsseEnvelope": {
            "payload": STANDARD.encode(&statement),
            "payloadType": kind,
            "signatures": [{"sig": signature(dir, key, signed.as_bytes())}],
        },
    });
    let bundle = bundle.to_string();
    let bundle_digest = registry.put_blob(REPOSITORY, bundle.as_bytes()).to_string();
    let config = registry.put_blob(REPOSITORY, b"{}").to_string();
    put_artifact(
        registry,
        None,
        json!({
            "artifactType": BUNDLE,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": config},
            "layers": [{"mediaType": BUNDLE, "size": bundle.len(), "digest": bundle_digest}],
            // Not looked at: who can write a manifest can write this, too.
            "subject": {"mediaType": MANIFEST, "size": 1, "digest": image.to_string()},
        }),
    )
}

/// An image in a registry, and keys that sign it.
struct Case {
    registry: DockerRegistry,
    dir: tempfile::TempDir,
    name: String,
    manifest: Digest,
}

impl Case {
    async fn new(registry: DockerRegistry) -> Case {
        let dir = tempfile::tempdir().unwrap();
        keys(dir.path());
        registry.push(&archive(dir.path()), "team/app:1", &["--format=oci"]);
        let name = format!("{}/team/app:1", registry.address);
        let manifest = Node::new().pull(&name).await.unwrap().manifest.unwrap();
        Case {
            registry,
            dir,
            name,
            manifest,
        }
    }

    async fn pull(&self, rule: Verdict) -> Result<(), Error> {
        let keys = match rule {
            Verdict::Require => vec![self.dir.path().join("ours.pub")],
            _ => Vec::new(),
        };
        let scope = format!("{}/team", self.registry.address);
        let node = Node::with(|config| config.trust = Trust::read(&[TrustRule { scope, rule, keys }]).unwrap());
        node.pull(&self.name).await.map(drop)
    }

    async fn is_refused(&self, rule: Verdict, words: &str) {
        match self.pull(rule).await {
            Err(error @ Error::Untrusted { .. }) => assert!(error.to_string().contains(words), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    /// As in a list of what refers to an image.
    fn attest(&self, claimed: &Digest, key: &str, predicate: &str) -> serde_json::Value {
        attest(&self.registry, self.dir.path(), &self.manifest, claimed, key, predicate)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_in_with_the_signatures_that_are_required() {
    let Some(registry) = DockerRegistry::start("").await else {
        return;
    };
    let case = Case::new(registry).await;
    let sign = |claimed: &Digest, key: &str| sign(&case.registry, case.dir.path(), &case.manifest, claimed, key);
    case.pull(Verdict::Allow).await.unwrap();
    case.is_refused(Verdict::Refuse, "refused on this node").await;
    case.is_refused(Verdict::Require, "it is not signed").await;
    sign(&case.manifest, "theirs");
    case.is_refused(Verdict::Require, "none of the keys").await;
    sign(&Digest::of(b"another"), "ours");
    case.is_refused(Verdict::Require, "has signed another image").await;
    sign(&case.manifest, "ours");
    case.pull(Verdict::Require).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_found_by_their_tag_where_a_registry_lists_no_referrers() {
    let Some(registry) = DockerRegistry::start("").await else {
        return;
    };
    let case = Case::new(registry).await;
    let list = |bundles: &[serde_json::Value]| {
        let mut bundles = bundles.to_vec();
        // As cosign 3 calls them there.
        for bundle in &mut bundles {
            bundle["artifactType"] = "application/vnd.oci.empty.v1+json".into();
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": bundles}).to_string();
        let tag = format!("sha256-{}", case.manifest.hex());
        case.registry.put_manifest(REPOSITORY, &tag, INDEX, index.as_bytes());
    };
    let another = Digest::of(b"another");
    let theirs = case.attest(&case.manifest, "theirs", SIGNATURE);
    for (bundle, words) in [
        (theirs.clone(), "none of the keys"),
        (case.attest(&another, "ours", SIGNATURE), "has signed another image"),
        (
            case.attest(&case.manifest, "ours", "https://cyclonedx.org/bom"),
            "no signature",
        ),
    ] {
        list(&[bundle]);
        case.is_refused(Verdict::Require, words).await;
    }
    list(&[theirs, case.attest(&case.manifest, "ours", SIGNATURE)]);
    case.pull(Verdict::Require).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_found_by_the_referrers_api() {
    let Some(registry) = DockerRegistry::other().await else {
        return;
    };
    let case = Case::new(registry).await;
    case.is_refused(Verdict::Require, "it is not signed").await;
    case.attest(&case.manifest, "theirs", SIGNATURE);
    case.is_refused(Verdict::Require, "none of the keys").await;
    case.attest(&case.manifest, "ours", SIGNATURE);
    case.pull(Verdict::Require).await.unwrap();
}

/// A registry with the referrers API, and Debian's without it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cosign_itself_signs_comes_in() {
    let Some(cosign) = std::env::var_os("HOVE_COSIGN") else {
        println!("SKIPPED: HOVE_COSIGN names no program (cargo xtask registries --cosign)");
        return;
    };
    for registry in [DockerRegistry::other().await, DockerRegistry::start("").await] {
        let case = Case::new(registry.unwrap()).await;
        case.is_refused(Verdict::Require, "it is not signed").await;
        let run = |arguments: &[&str]| {
            let mut command = std::process::Command::new(&cosign);
            command.args(arguments).current_dir(case.dir.path());
            // An empty one: the key is for this test alone.
            let output = command.env("COSIGN_PASSWORD", "").output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        run(&["generate-key-pair", "--output-key-prefix", "cosign"]);
        let image = format!("{}@{}", case.name.trim_end_matches(":1"), case.manifest);
        // Nothing is sent to a public log.
        let quiet = ["--tlog-upload=false", "--use-signing-config=false", "--yes"];
        run(&[&["sign", "--key", "cosign.key", image.as_str()], quiet.as_slice()].concat());
        case.is_refused(Verdict::Require, "none of the keys").await;
        std::fs::rename(case.dir.path().join("cosign.pub"), case.dir.path().join("ours.pub")).unwrap();
        case.pull(Verdict::Require).await.unwrap();
    }
}
