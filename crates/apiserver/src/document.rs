//! The body of a request that is one document, within limits.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use crate::failure::Failure;

/// How large a document may be, in bytes; Kubernetes' limit.
pub const DOCUMENT_MAX: usize = 3 << 20;
/// How long it may take to come.
pub const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A whole body: JSON or YAML.
#[derive(Debug, Clone)]
pub struct Document(pub Bytes);

impl<S: Sync> FromRequest<S> for Document {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Document, Failure> {
        match timeout(
            DOCUMENT_TIMEOUT,
            axum::body::to_bytes(request.into_body(), DOCUMENT_MAX),
        )
        .await
        {
            Ok(Ok(bytes)) => Ok(Document(bytes)),
            Ok(Err(error)) if is_length_limit(&error) => Err(Failure::too_large(format!(
                "the body has more than {DOCUMENT_MAX} bytes, which are allowed"
            ))),
            Ok(Err(error)) => Err(Failure::bad_request(format!("the body: {error}"))),
            Err(_) => Err(Failure::with_code(
                StatusCode::REQUEST_TIMEOUT,
                "Timeout",
                format!("the body did not come within {DOCUMENT_TIMEOUT:?}"),
            )),
        }
    }
}

/// axum hides the kind of its error in its source.
fn is_length_limit(error: &axum::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>())
}
