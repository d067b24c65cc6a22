//! Whose an image is: the signatures that its registry has beside it.

use super::super::bundle;
use super::super::signature::{self, PublicKey, Signature};
use super::{Pull, Question, Resolved};
use crate::digest::Digest;
use crate::limits;
use crate::registry::error::{Error, Result};

/// What may show who signed, still to be fetched.
enum Proof {
    /// As cosign wrote it before version 3.
    Payload(Signature),
    /// A Sigstore bundle's blob.
    Bundle(Digest),
}

impl Proof {
    fn blob(&self) -> Digest {
        match self {
            Proof::Payload(signature) => signature.payload,
            Proof::Bundle(blob) => *blob,
        }
    }

    fn check(&self, bytes: &[u8], keys: &[PublicKey], images: &[Digest]) -> Result<(), String> {
        match self {
            Proof::Payload(signature) => signature.check(bytes, keys, images),
            Proof::Bundle(_) => bundle::check(bytes, keys, images),
        }
    }
}

impl Pull {
    /// A signature of one of `keys`, for the image or for the index that it was found in.
    pub(super) async fn check_signature(&self, resolved: &Resolved, keys: &[PublicKey]) -> Result<()> {
        let images = [resolved.digest, Digest::of(&resolved.bytes)];
        let mut reason = None;
        for image in &images[..if images[0] == images[1] { 1 } else { 2 }] {
            let mut proofs = self.payloads(image).await?;
            proofs.extend(self.bundles(image).await?);
            for proof in proofs {
                let question = Question {
                    path: format!("blobs/{}", proof.blob()),
                    accept: "*/*",
                    limit: limits::SIGNATURE_BYTES,
                    digest: Some(proof.blob()),
                };
                match proof.check(&self.small(&question).await?, keys, &images) {
                    Ok(()) => return Ok(()),
                    Err(why) => reason = Some(why),
                }
            }
        }
        Err(self.untrusted(reason.as_deref().unwrap_or("it is not signed")))
    }

    async fn payloads(&self, image: &Digest) -> Result<Vec<Proof>> {
        let Some(manifest) = found(self.manifest(&signature::tag(image), true).await)? else {
            return Ok(Vec::new());
        };
        let signatures = signature::list(&manifest).map_err(|rule| self.malformed("manifest of signatures", rule))?;
        Ok(signatures.into_iter().map(Proof::Payload).collect())
    }

    async fn bundles(&self, image: &Digest) -> Result<Vec<Proof>> {
        let question = Question {
            path: format!("referrers/{image}"),
            accept: "application/vnd.oci.image.index.v1+json",
            limit: limits::MANIFEST_BYTES,
            digest: None,
        };
        let referrers = match found(self.small(&question).await)? {
            None => found(self.manifest(&bundle::fallback_tag(image), true).await)?,
            there => there,
        };
        let Some(referrers) = referrers else {
            return Ok(Vec::new());
        };
        let manifests = bundle::list(&referrers).map_err(|rule| self.malformed("list of referrers", rule))?;
        let mut bundles = Vec::new();
        for manifest in manifests {
            let bytes = self.manifest(&manifest.to_string(), false).await?;
            let blob = bundle::blob(&bytes).map_err(|rule| self.malformed("manifest of a signature", rule))?;
            bundles.extend(blob.map(Proof::Bundle));
        }
        Ok(bundles)
    }
}

/// Nothing, where the servers know no such thing.
fn found(answer: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}
