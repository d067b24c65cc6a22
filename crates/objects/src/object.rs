//! One version of one object.

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The kinds that the store keeps. A further one (ConfigMap, Secret) is a variant and a line in [`Kind::facts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 Pod`.
    Pod,
    /// `v1 Event`.
    Event,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 2] = [Kind::Pod, Kind::Event];

    /// (apiVersion, kind, resource)
    const fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::Pod => ("v1", "Pod", "pods"),
            Kind::Event => ("v1", "Event", "events"),
        }
    }

    /// As in the field `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        self.facts().0
    }

    /// As in the field `kind`.
    pub const fn name(self) -> &'static str {
        self.facts().1
    }

    /// As in a URL: `pods`.
    pub const fn resource(self) -> &'static str {
        self.facts().2
    }

    /// Whether a delete only marks the object until its owner (`sync`) has taken down what it stands for.
    pub const fn deletes_gracefully(self) -> bool {
        matches!(self, Kind::Pod)
    }
}

/// An object's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl Key {
    /// The key of `namespace/name`.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of a Pod.
    pub fn pod(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key::new(Kind::Pod, namespace, name)
    }
}

/// One version of one object: its JSON, with `metadata.resourceVersion` set.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    kind: Kind,
    version: u64,
    json: Value,
}

impl Object {
    /// Takes JSON that has a name, a namespace and `version` in its metadata, as the store writes it.
    pub(crate) fn new(kind: Kind, version: u64, json: Value) -> Object {
        Object { kind, version, json }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its resourceVersion.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The whole object.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The whole object, to change and hand to [`crate::Store::update`].
    pub fn into_json(self) -> Value {
        self.json
    }

    /// Its address.
    pub fn key(&self) -> Key {
        Key::new(self.kind, self.namespace(), self.name())
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.metadata("name").unwrap_or_default()
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.metadata("namespace").unwrap_or_default()
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.metadata("uid").unwrap_or_default()
    }

    /// Whether a delete has marked it (`metadata.deletionTimestamp`).
    pub fn is_being_deleted(&self) -> bool {
        self.metadata("deletionTimestamp").is_some()
    }

    /// As a type of k8s-openapi: `object.decode::<Pod>()`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.json).map_err(|error| {
            Error::Invalid(format!(
                "{} {}/{}: {error}",
                self.kind.name(),
                self.namespace(),
                self.name()
            ))
        })
    }

    fn metadata(&self, field: &str) -> Option<&str> {
        self.json.get("metadata")?.get(field)?.as_str()
    }
}

/// `metadata`, made if it isn't there.
pub(crate) fn metadata(json: &mut Value) -> Result<&mut Map<String, Value>> {
    json.as_object_mut()
        .ok_or_else(|| Error::Invalid("the object is not a JSON object".into()))?
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or_else(|| Error::Invalid("metadata is not a JSON object".into()))
}

/// As Kubernetes writes times: whole seconds, UTC.
pub(crate) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
