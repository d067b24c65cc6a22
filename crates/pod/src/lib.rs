//! The Pod object: from text to a checked, complete `v1 Pod`, as the Kubernetes API server would make it. Pure: no clock,
//! no I/O.
//!
//! Text takes three steps; [`load`] takes them all and gathers every problem of every document:
//!
//! 1. [`parse`]: YAML (several documents) or JSON into [`k8s_openapi::api::core::v1::Pod`]. Strict: a syntax error with line
//!    and column, a key given twice, an unknown field, a wrong type, a field that Hove does not honour ([`supported`]).
//! 2. [`default()`]: what the API server fills in.
//! 3. [`validate()`]: the rules of the API server, with its words: `spec.containers[0].image: Required value`.
//!
//! A [`Problem`] names the path in the document, the value and the rule; [`Problems`] adds the file.
//!
//! [`Quantity`](quantity::Quantity) is exact arithmetic on `100m`, `1.5Gi`, `12e6`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod default;
mod document;
mod path;
mod problem;
pub mod quantity;
mod strict;
pub mod supported;
mod update;
mod validate;

pub use default::default;
pub use document::{DEPTH_LIMIT, DOCUMENTS_LIMIT, Document, TEXT_LIMIT, VALUES_LIMIT, load, parse, parse_value};
pub use problem::{Problem, Problems, Rule};
pub use update::validate_update;
pub use validate::validate;
