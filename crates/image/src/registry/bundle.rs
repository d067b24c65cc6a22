//! Signatures as cosign 3 makes them with a key: a Sigstore bundle, whose envelope (DSSE) holds a statement (in-toto) about a
//! manifest's digest. It is the layer of an artifact that refers to the image: the registry's referrers API lists it (OCI
//! distribution specification, "Listing Referrers"), or the tag `sha256-HEX` where a registry has no such API.
//!
//! Certificates and transparency logs that a bundle may bring as well are not looked at: who signed is known by the key.
//! Pure: what is fetched comes from [`super::pull`].

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::signature::{LISTED_MAX, PublicKey};
use crate::digest::Digest;

/// What the media type of each version begins with.
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// What cosign 3 calls a bundle in a list that it writes itself: the type of the artifact's configuration.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What an envelope must hold.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
/// A statement that says “this image is mine”. Others say what is in an image, or where it was made.
const SIGNATURE_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// The tag that lists what refers to an image, for registries without the API.
pub fn fallback_tag(image: &Digest) -> String {
    format!("sha256-{}", image.hex())
}

/// The manifests that may be bundles' in a list of referrers. The error is the rule that it breaks.
pub fn list(referrers: &[u8]) -> Result<Vec<Digest>, String> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Referrer>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Referrer {
        digest: Digest,
        #[serde(default)]
        artifact_type: String,
    }
    let index: Index = serde_json::from_slice(referrers).map_err(|error| error.to_string())?;
    let may_be = |referrer: &&Referrer| {
        let kind = &referrer.artifact_type;
        kind.starts_with(BUNDLE_TYPE) || kind.is_empty() || kind == EMPTY_TYPE
    };
    let bundles = index.manifests.iter().filter(may_be).take(LISTED_MAX);
    Ok(bundles.map(|referrer| referrer.digest).collect())
}

/// The blob of a bundle, by a referrer's manifest; none where it is about something else. The error is the rule that it breaks.
pub fn blob(manifest: &[u8]) -> Result<Option<Digest>, String> {
    #[derive(Deserialize)]
    struct Manifest {
        layers: Vec<Layer>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        digest: Digest,
        #[serde(default)]
        media_type: String,
    }
    let manifest: Manifest = serde_json::from_slice(manifest).map_err(|error| error.to_string())?;
    let mut layers = manifest.layers.iter();
    let bundle = layers.find(|layer| layer.media_type.starts_with(BUNDLE_TYPE));
    Ok(bundle.map(|layer| layer.digest))
}

/// Whether one of `keys` has signed the bundle's statement, and it is about one of `images`. The error says why not.
pub fn check(bundle: &[u8], keys: &[PublicKey], images: &[Digest]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bundle {
        dsse_envelope: Option<Envelope>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope {
        payload: String,
        payload_type: String,
        signatures: Vec<Signature>,
    }
    #[derive(Deserialize)]
    struct Signature {
        sig: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement {
        predicate_type: String,
        subject: Vec<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: BTreeMap<String, String>,
    }
    let bundle: Bundle = serde_json::from_slice(bundle).map_err(|error| format!("no Sigstore bundle: {error}"))?;
    let envelope = bundle
        .dsse_envelope
        .ok_or("its Sigstore bundle has no envelope: that is about a file, not about an image")?;
    let payload = STANDARD
        .decode(&envelope.payload)
        .map_err(|_| "the envelope of its Sigstore bundle is not base64")?;
    let signed = signed_bytes(&envelope.payload_type, &payload);
    // Nothing of the payload is read before it is known who wrote it.
    let signatures = envelope.signatures.iter().take(LISTED_MAX);
    let is_ours = signatures
        .filter_map(|signature| STANDARD.decode(&signature.sig).ok())
        .any(|signature| keys.iter().any(|key| key.has_signed(&signed, &signature)));
    if !is_ours {
        return Err("its Sigstore bundle is signed, with none of the keys that are trusted".to_owned());
    }
    if envelope.payload_type != STATEMENT_TYPE {
        return Err(format!(
            "a trusted key has signed {:?}, no statement",
            envelope.payload_type
        ));
    }
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|error| format!("what was signed is no statement: {error}"))?;
    if statement.predicate_type != SIGNATURE_PREDICATE {
        return Err(format!(
            "a trusted key has signed a statement {:?}, which is no signature",
            statement.predicate_type
        ));
    }
    let mut subjects = statement
        .subject
        .iter()
        .filter_map(|subject| subject.digest.get("sha256"));
    match subjects.any(|subject| images.iter().any(|image| image.hex() == *subject)) {
        true => Ok(()),
        false => Err("a trusted key has signed another image".to_owned()),
    }
}

/// What the signature of an envelope is about (DSSE, "pre-authentication encoding").
fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_envelopes_specification() {
        let signed = signed_bytes("http://example.com/HelloWorld", b"hello world");
        assert_eq!(signed, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn what_refers_to_an_image_and_is_no_bundle_is_left_out() {
        let digest = |n: u8| Digest::of(&[n]);
        let kinds = [
            "application/vnd.cyclonedx+json",
            "",
            "application/vnd.dev.sigstore.bundle.v0.3+json",
            "application/vnd.oci.empty.v1+json",
        ];
        let referrer =
            |(n, kind): (u8, &str)| serde_json::json!({"digest": digest(n).to_string(), "artifactType": kind});
        let referrers: Vec<_> = (0..).zip(kinds).map(referrer).collect();
        let listed = list(serde_json::json!({"manifests": referrers}).to_string().as_bytes());
        assert_eq!(listed.unwrap(), [digest(1), digest(2), digest(3)]);

        let manifest = |kind: &str| {
            let layer = serde_json::json!({"digest": digest(1).to_string(), "mediaType": kind});
            serde_json::json!({"layers": [layer]}).to_string()
        };
        assert_eq!(blob(manifest(kinds[2]).as_bytes()), Ok(Some(digest(1))));
        assert_eq!(blob(manifest(kinds[0]).as_bytes()), Ok(None));
        for broken in ["", "[]", "{}", r#"{"manifests": [{"digest": "sha256:1"}]}"#] {
            assert!(list(broken.as_bytes()).is_err(), "{broken}");
            assert!(blob(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_no_bundle_is_said_to_be_none() {
        for (text, words) in [
            ("", "no Sigstore bundle"),
            ("{}", "no envelope"),
            (
                r#"{"dsseEnvelope": {"payload": "?", "payloadType": "", "signatures": []}}"#,
                "not base64",
            ),
            (
                r#"{"dsseEnvelope": {"payload": "", "payloadType": "", "signatures": []}}"#,
                "none of the keys",
            ),
        ] {
            let error = check(text.as_bytes(), &[], &[]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
