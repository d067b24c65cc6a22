//! Signatures as cosign made them with a key before version 3: a payload that names a manifest's digest ("simple signing"), and the
//! signature of its bytes beside it, as a layer and its annotation, at the tag `sha256-HEX.sig` of the same repository.
//!
//! Pure: what is fetched comes from [`super::pull`].

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use crate::digest::Digest;

/// The media type of payloads.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where the signature of a payload stands, base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload is about.
const CLAIM: &str = "cosign container image signature";
/// Signatures of one kind, of one image, that are looked at.
pub const LISTED_MAX: usize = 64;

/// The kinds of keys that sign images, each by what its SubjectPublicKeyInfo (RFC 5280, DER) begins with. What follows is the
/// key itself; its length is fixed, so there is nothing more to parse.
const KINDS: [(&[u8], usize, &[&dyn VerificationAlgorithm]); 3] = [
    (
        &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ],
        65,
        &[&ECDSA_P256_SHA256_ASN1],
    ),
    (
        &[
            0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
            0x00, 0x22, 0x03, 0x62, 0x00,
        ],
        97,
        // cosign before version 3 hashes for every key by SHA-256.
        &[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1],
    ),
    (
        &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00],
        32,
        &[&ED25519],
    ),
];

/// A key that may have signed.
#[derive(Clone)]
pub struct PublicKey {
    algorithms: &'static [&'static dyn VerificationAlgorithm],
    key: Vec<u8>,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({:?})", self.algorithms)
    }
}

impl PublicKey {
    /// From `-----BEGIN PUBLIC KEY-----`.
    pub fn from_pem(pem: &[u8]) -> Result<PublicKey, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "no public key in PEM".to_owned())?;
        let kind = KINDS.iter().find_map(|(prefix, length, algorithms)| {
            let key = der.as_ref().strip_prefix(*prefix).filter(|key| key.len() == *length)?;
            Some(PublicKey {
                algorithms,
                key: key.to_vec(),
            })
        });
        kind.ok_or_else(|| "a public key, but none of ECDSA P-256, ECDSA P-384 and Ed25519".to_owned())
    }

    /// Whether `signature` is this key's, of these bytes.
    pub fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let is_by = |algorithm: &&'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(*algorithm, &self.key)
                .verify(bytes, signature)
                .is_ok()
        };
        self.algorithms.iter().any(is_by)
    }
}

/// The tag at which an image's signatures are.
pub fn tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

/// A signature, and where what it signs is.
#[derive(Debug)]
pub struct Signature {
    /// The payload's digest.
    pub payload: Digest,
    bytes: Vec<u8>,
}

/// What a manifest of signatures lists. The error is the rule that it breaks.
pub fn list(manifest: &[u8]) -> Result<Vec<Signature>, String> {
    #[derive(Deserialize)]
    struct Manifest {
        layers: Vec<Layer>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        #[serde(default)]
        media_type: String,
        digest: Digest,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let manifest: Manifest = serde_json::from_slice(manifest).map_err(|error| error.to_string())?;
    let layers = manifest
        .layers
        .into_iter()
        .filter(|layer| layer.media_type == PAYLOAD_TYPE);
    let signatures = layers.filter_map(|layer| {
        Some(Signature {
            payload: layer.digest,
            bytes: STANDARD.decode(layer.annotations.get(SIGNATURE)?).ok()?,
        })
    });
    Ok(signatures.take(LISTED_MAX).collect())
}

impl Signature {
    /// Whether one of `keys` has signed `payload`, and it is about one of `images`. The error says why not.
    pub fn check(&self, payload: &[u8], keys: &[PublicKey], images: &[Digest]) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Payload {
            critical: Critical,
        }
        #[derive(Deserialize)]
        struct Critical {
            image: Image,
            #[serde(rename = "type")]
            kind: String,
        }
        #[derive(Deserialize)]
        struct Image {
            #[serde(rename = "docker-manifest-digest")]
            digest: Digest,
        }
        // Nothing of it is read before it is known who wrote it.
        if !keys.iter().any(|key| key.has_signed(payload, &self.bytes)) {
            return Err("it is signed, with none of the keys that are trusted".to_owned());
        }
        let Payload { critical } = serde_json::from_slice(payload)
            .map_err(|error| format!("what was signed is no claim of cosign's: {error}"))?;
        match critical.kind == CLAIM && images.contains(&critical.image.digest) {
            true => Ok(()),
            false => Err(format!(
                "a trusted key has signed another image, {}",
                critical.image.digest
            )),
        }
    }
}
