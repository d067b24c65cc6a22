//! Label and field selectors (pure).

use serde_json::Value;

use crate::failure::{Failure, Result};

/// Which objects a list or a watch wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelRule {
    key: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Exists,
    Absent,
    In(Vec<String>),
    /// Holds for objects without the label, too.
    NotIn(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRule {
    path: String,
    value: String,
    equal: bool,
}

/// The fields that can be selected on, by kind, as in Kubernetes.
const POD_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "status.phase",
    "status.podIP",
];
const EVENT_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "type",
];

impl Selector {
    /// Parses `labelSelector` and `fieldSelector`.
    pub fn parse(kind: objects::Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Selector> {
        let known = match kind {
            objects::Kind::Pod => POD_FIELDS,
            objects::Kind::Event => EVENT_FIELDS,
        };
        let labels = split(labels.unwrap_or_default())
            .into_iter()
            .map(parse_label)
            .collect::<Result<_>>()?;
        let fields = split(fields.unwrap_or_default())
            .into_iter()
            .map(|rule| parse_field(rule, known))
            .collect::<Result<_>>()?;
        Ok(Selector { labels, fields })
    }

    /// The one value that `path` must have, if the selector says so.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|rule| rule.equal && rule.path == path)
            .map(|rule| rule.value.as_str())
    }

    /// Whether `object` is wanted.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|rule| rule.holds(object)) && self.fields.iter().all(|rule| rule.holds(object))
    }
}

impl LabelRule {
    fn holds(&self, object: &Value) -> bool {
        let value = object["metadata"]["labels"].get(&self.key).and_then(Value::as_str);
        match &self.wanted {
            Wanted::Exists => value.is_some(),
            Wanted::Absent => value.is_none(),
            Wanted::In(values) => value.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
            Wanted::NotIn(values) => value.is_none_or(|value| values.iter().all(|unwanted| unwanted != value)),
        }
    }
}

impl FieldRule {
    fn holds(&self, object: &Value) -> bool {
        let field = self.path.split('.').try_fold(object, |value, name| value.get(name));
        (field.and_then(Value::as_str).unwrap_or_default() == self.value) == self.equal
    }
}

/// Splits at commas, but not at those between parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|rule| !rule.is_empty())
    .collect()
}

fn parse_label(rule: &str) -> Result<LabelRule> {
    let (key, wanted) = if let Some((key, value)) = rule.split_once("!=") {
        (key, Wanted::NotIn(vec![value.trim().into()]))
    } else if let Some((key, value)) = rule.split_once("==").or_else(|| rule.split_once('=')) {
        (key, Wanted::In(vec![value.trim().into()]))
    } else if let Some((key, values)) = rule.split_once(" notin ") {
        (key, Wanted::NotIn(set(rule, values)?))
    } else if let Some((key, values)) = rule.split_once(" in ") {
        (key, Wanted::In(set(rule, values)?))
    } else if let Some(key) = rule.strip_prefix('!') {
        (key, Wanted::Absent)
    } else {
        (rule, Wanted::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(|character: char| character.is_whitespace() || "(),=!<>".contains(character)) {
        return Err(Failure::bad_request(format!(
            "labelSelector: {rule}: want key, !key, key=value, key!=value, key in (a,b) or key notin (a,b)"
        )));
    }
    Ok(LabelRule {
        key: key.into(),
        wanted,
    })
}

fn set(rule: &str, text: &str) -> Result<Vec<String>> {
    let inner = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let inner = inner.ok_or_else(|| Failure::bad_request(format!("labelSelector: {rule}: want (a,b) after in")))?;
    Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

fn parse_field(rule: &str, known: &[&str]) -> Result<FieldRule> {
    let (path, value, equal) = if let Some((path, value)) = rule.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = rule.split_once("==").or_else(|| rule.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Failure::bad_request(format!(
            "fieldSelector: {rule}: want field=value or field!=value"
        )));
    };
    if !known.contains(&path) {
        return Err(Failure::bad_request(format!(
            "fieldSelector: {path} can't be selected on; these can: {}",
            known.join(", ")
        )));
    }
    Ok(FieldRule {
        path: path.into(),
        value: value.into(),
        equal,
    })
}

#[cfg(test)]
mod tests {
    use objects::Kind;
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "nginx", "tier": "front"}},
            "status": {"phase": "Running"},
        });
        Selector::parse(Kind::Pod, Some(labels), Some(fields))
            .unwrap()
            .matches(&pod)
    }

    #[test]
    fn labels() {
        for (rule, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app=nginx", true),
            ("app==nginx,tier=back", false),
            ("app!=nginx", false),
            ("other!=x", true),
            ("app in (apache, nginx),tier", true),
            ("app notin (apache,nginx)", false),
            ("other notin (x)", true),
        ] {
            assert_eq!(matches(rule, ""), expected, "{rule}");
        }
    }

    #[test]
    fn fields() {
        for (rule, expected) in [
            ("metadata.name=web", true),
            ("metadata.name=web,metadata.namespace!=default", false),
            ("status.phase=Running", true),
            ("spec.nodeName=", true),
        ] {
            assert_eq!(matches("", rule), expected, "{rule}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (labels, fields) in [
            ("a in x", ""),
            ("=b", ""),
            ("a b", ""),
            ("", "metadata.uid=1"),
            ("", "metadata.name"),
        ] {
            assert!(
                Selector::parse(Kind::Pod, Some(labels), Some(fields)).is_err(),
                "{labels} {fields}"
            );
        }
    }
}
