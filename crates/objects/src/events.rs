//! Events: equal ones are counted, old ones expire.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    Kind, Result, Scope, Store,
    object::{Key, format_time},
};

/// How long an event is kept after it last happened, as in Kubernetes.
const TTL: SignedDuration = SignedDuration::from_hours(1);
/// How many events are kept on the node.
const LIMIT: usize = 2048;
/// How long a message may be, in bytes, as in Kubernetes.
const MESSAGE_LIMIT: usize = 1024;

/// How much an event should worry its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go their way.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Two events that differ in none of these are one event that happened twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    uid: String,
    field_path: Option<String>,
    type_: String,
    reason: String,
    message: String,
}

/// Writes events. Never fails its caller: an event that can't be written is logged.
pub struct Recorder {
    store: Arc<Store>,
    component: String,
    known: Mutex<Known>,
}

/// The events that exist, least recent first.
struct Known {
    names: HashMap<Identity, Key>,
    by_age: VecDeque<(Timestamp, Identity)>,
}

impl Recorder {
    /// A recorder that signs as `component`; knows the events that the store already has, so that counts go on after a restart.
    pub fn new(store: Arc<Store>, component: impl Into<String>) -> Result<Recorder> {
        let mut events: Vec<(Timestamp, Identity, Key)> = Vec::new();
        for object in store.list(&Scope::all(Kind::Event))?.0 {
            let Ok(event) = object.decode::<Event>() else { continue };
            let last = event.last_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
            events.push((last, identity(&event), object.key()));
        }
        events.sort_by_key(|(last, ..)| *last);
        let by_age = events
            .iter()
            .map(|(last, identity, _)| (*last, identity.clone()))
            .collect();
        let names = events.into_iter().map(|(_, identity, key)| (identity, key)).collect();
        Ok(Recorder {
            store,
            component: component.into(),
            known: Mutex::new(Known { names, by_age }),
        })
    }

    /// Records that something happened to `object` (kind, namespace, name and uid set; fieldPath for a container:
    /// `spec.containers{nginx}`).
    pub fn record(&self, object: &ObjectReference, type_: EventType, reason: &str, message: &str) {
        self.record_at(Timestamp::now(), object, type_, reason, message);
    }

    fn record_at(&self, now: Timestamp, object: &ObjectReference, type_: EventType, reason: &str, message: &str) {
        let event = self.event(now, object, type_, reason, shortened(message));
        let identity = identity(&event);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match known.names.get(&identity).cloned() {
            Some(key) => match self.count(&key, now) {
                Err(crate::Error::NotFound(_)) => self.create(&event),
                result => result,
            },
            None => self.create(&event),
        };
        match written {
            Ok(key) => {
                // One entry per event: an event that happens again moves to the young end.
                known.by_age.retain(|(_, other)| *other != identity);
                known.by_age.push_back((now, identity.clone()));
                known.names.insert(identity, key);
            }
            Err(error) => tracing::warn!(reason, message, "an event of pod {:?} is lost: {error}", object.name),
        }
        self.forget_old(&mut known, now);
    }

    fn create(&self, event: &Event) -> Result<Key> {
        let json = serde_json::to_value(event).map_err(|error| crate::Error::Invalid(error.to_string()))?;
        Ok(self.store.create_lazily(Kind::Event, json)?.key())
    }

    fn count(&self, key: &Key, now: Timestamp) -> Result<Key> {
        let object = self.store.modify_lazily(key, |json| {
            json["count"] = (json["count"].as_i64().unwrap_or(1) + 1).into();
            json["lastTimestamp"] = format_time(now).into();
        })?;
        Ok(object.key())
    }

    fn forget_old(&self, known: &mut Known, now: Timestamp) {
        while let Some((last, _)) = known.by_age.front() {
            if known.by_age.len() <= LIMIT && now.duration_since(*last) < TTL {
                break;
            }
            let Some((_, identity)) = known.by_age.pop_front() else {
                break;
            };
            if let Some(key) = known.names.remove(&identity)
                && let Err(error) = self.store.remove_lazily(&key)
                && !matches!(error, crate::Error::NotFound(_))
            {
                tracing::warn!("the expired event {} can't be removed: {error}", key.name);
            }
        }
    }

    fn event(&self, now: Timestamp, object: &ObjectReference, type_: EventType, reason: &str, message: &str) -> Event {
        let name = object.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}{}", now.as_nanosecond(), crate::store::suffix())),
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".into())),
                ..Default::default()
            },
            involved_object: object.clone(),
            type_: Some(type_.as_str().into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            count: Some(1),
            // To the microsecond, unlike the others.
            event_time: Some(MicroTime(now)),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: None,
            }),
            reporting_component: Some(self.component.clone()),
            ..Default::default()
        }
    }
}

fn identity(event: &Event) -> Identity {
    Identity {
        uid: event.involved_object.uid.clone().unwrap_or_default(),
        field_path: event.involved_object.field_path.clone(),
        type_: event.type_.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        message: event.message.clone().unwrap_or_default(),
    }
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}
