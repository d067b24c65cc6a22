//! Errors as Kubernetes' `Status` objects.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use cri::ErrorKind;
use http::{StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

/// A request's failure: an HTTP code, and a `Status` that programs read by its reason and people by its message.
#[derive(Debug, Clone)]
pub struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Box<StatusDetails>>,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    /// 400: the request can't be understood.
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 404: what the request names is not there.
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 409: the request can't be done as things are.
    pub fn conflict(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// 422: the object breaks rules; a cause for each, as (field, message).
    pub fn invalid(kind: &str, name: &str, causes: Vec<(String, String)>) -> Failure {
        let list: Vec<_> = causes
            .iter()
            .map(|(field, message)| format!("{field}: {message}"))
            .collect();
        let named = if name.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind} \"{name}\"")
        };
        let message = match &list[..] {
            [one] => format!("{named} is invalid: {one}"),
            many => format!("{named} is invalid: [{}]", many.join(", ")),
        };
        let causes = causes
            .into_iter()
            .map(|(field, message)| StatusCause {
                reason: Some("FieldValueInvalid".into()),
                field: Some(field),
                message: Some(message),
            })
            .collect();
        let details = StatusDetails {
            name: Some(name.into()),
            kind: Some(kind.into()),
            causes: Some(causes),
            ..Default::default()
        };
        let failure = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        Failure {
            details: Some(Box::new(details)),
            ..failure
        }
    }

    /// 500: the node's fault.
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// Any other code.
    pub fn with_code(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(code, reason, message)
    }

    /// The object on the wire.
    pub fn status(&self) -> Status {
        Status {
            status: Some("Failure".into()),
            code: Some(self.code.as_u16().into()),
            reason: Some(self.reason.into()),
            message: Some(self.message.clone()),
            details: self.details.as_deref().cloned(),
            ..Default::default()
        }
    }

    /// 413: more than is read.
    pub(crate) fn too_large(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    fn about(self, key: &objects::Key) -> Failure {
        let details = StatusDetails {
            name: Some(key.name.clone()),
            kind: Some(key.kind.resource().into()),
            ..Default::default()
        };
        Failure {
            details: Some(Box::new(details)),
            ..self
        }
    }
}

/// How much of a plain refusal is read.
const PLAIN_MAX: usize = 4 << 10;

/// A refusal that the HTTP library wrote, as a `Status`; any other answer as it is.
pub(crate) async fn as_status(response: Response) -> Response {
    let code = response.status();
    let is_plain = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !(code.is_client_error() || code.is_server_error()) || !is_plain {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), PLAIN_MAX)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim() {
        "" => code.to_string(),
        text => text.to_owned(),
    };
    let reason = match code {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
        code if code.is_server_error() => "InternalError",
        _ => "BadRequest",
    };
    Failure::new(code, reason, message).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, Json(self.status())).into_response()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl From<objects::Error> for Failure {
    fn from(error: objects::Error) -> Failure {
        let message = error.to_string();
        match error {
            objects::Error::NotFound(key) => Failure::not_found(message).about(&key),
            objects::Error::AlreadyExists(key) => {
                Failure::new(StatusCode::CONFLICT, "AlreadyExists", message).about(&key)
            }
            objects::Error::Conflict { key, .. } => Failure::conflict(message).about(&key),
            objects::Error::Invalid(_) => Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message),
            objects::Error::Expired { .. } => Failure::new(StatusCode::GONE, "Expired", message),
            objects::Error::Storage { .. } => Failure::internal(message),
        }
    }
}

impl From<cri::Error> for Failure {
    fn from(error: cri::Error) -> Failure {
        let (code, reason) = match error.kind {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "NotFound"),
            ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "AlreadyExists"),
            ErrorKind::InvalidArgument => (StatusCode::BAD_REQUEST, "BadRequest"),
            ErrorKind::FailedPrecondition => (StatusCode::CONFLICT, "Conflict"),
            ErrorKind::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            ErrorKind::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            ErrorKind::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        Failure::new(code, reason, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_needs_no_brackets() {
        let causes = vec![("spec.containers".to_owned(), "Required value".to_owned())];
        let status = Failure::invalid("Pod", "web", causes).status();
        assert_eq!(status.code, Some(422));
        assert_eq!(
            status.message.as_deref(),
            Some("Pod \"web\" is invalid: spec.containers: Required value")
        );
        assert_eq!(
            status.details.unwrap().causes.unwrap()[0].field.as_deref(),
            Some("spec.containers")
        );
    }

    #[test]
    fn a_missing_object_is_named() {
        let status = Failure::from(objects::Error::NotFound(objects::Key::pod("default", "web"))).status();
        assert_eq!((status.code, status.reason.as_deref()), (Some(404), Some("NotFound")));
        assert_eq!(status.message.as_deref(), Some("pods \"web\" not found"));
        assert_eq!(status.details.unwrap().name.as_deref(), Some("web"));
    }
}
