//! Whose images may come in: which registries are refused, and which must show a signature.
//!
//! A rule is about a scope: a registry, or a registry with the beginning of a repository's path, whole components of it. The
//! longest one that an image's name lies in counts; what no rule is about may come.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::signature::PublicKey;
use crate::reference::{Reference, canonical_registry};

/// A rule as people write it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRule {
    /// `registry.example.org`, `registry.example.org/team`, `docker.io/library`; `*` is every image.
    pub scope: String,
    /// What is done.
    pub rule: Verdict,
    /// For `require`: PEM files of public keys, one of which must have signed.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Images may come, signed or not.
    Allow,
    /// None may.
    Refuse,
    /// Those may that are signed with one of the keys.
    Require,
}

/// What must be true of an image before it is fetched.
#[derive(Debug, Clone)]
pub(super) enum Demand {
    Nothing,
    Impossible,
    SignatureOf(Vec<PublicKey>),
}

/// Rules with their keys read.
#[derive(Debug, Clone, Default)]
pub struct Trust(Vec<(String, Demand)>);

impl Trust {
    /// Reads the keys. The error names the file and what is wrong with it.
    pub fn read(rules: &[TrustRule]) -> Result<Trust, String> {
        let read = |rule: &TrustRule| {
            let demand = match (rule.rule, rule.keys.as_slice()) {
                (Verdict::Require, []) => Err("require needs keys".to_owned()),
                (Verdict::Require, keys) => Ok(Demand::SignatureOf(
                    keys.iter().map(|key| read_key(key)).collect::<Result<_, _>>()?,
                )),
                (_, [_, ..]) => Err("keys are for the rule require".to_owned()),
                (Verdict::Allow, []) => Ok(Demand::Nothing),
                (Verdict::Refuse, []) => Ok(Demand::Impossible),
            };
            let demand = demand.map_err(|what| format!("scope {:?}: {what}", rule.scope))?;
            Ok((canonical(rule.scope.trim_end_matches('/')), demand))
        };
        rules.iter().map(read).collect::<Result<_, _>>().map(Trust)
    }

    /// What is demanded of an image.
    pub(super) fn demand(&self, reference: &Reference) -> &Demand {
        let name = canonical(&reference.name());
        let covers = |scope: &str| {
            let rest = name.strip_prefix(scope);
            scope == "*" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let rules = self.0.iter().filter(|(scope, _)| covers(scope));
        // A star is shorter than any registry's name.
        let longest = rules.max_by_key(|(scope, _)| scope.len());
        longest.map_or(&Demand::Nothing, |(_, demand)| demand)
    }
}

/// A scope, or a name, with its registry as it is known however it is spelled: the ports that need not be said are not, and Docker Hub
/// has one name.
fn canonical(name: &str) -> String {
    let (registry, path) = name
        .split_once('/')
        .map_or((name, None), |(registry, path)| (registry, Some(path)));
    let registry = canonical_registry(registry)
        .unwrap_or_else(|| registry.to_owned())
        .to_ascii_lowercase();
    let registry = registry
        .strip_suffix(":443")
        .or(registry.strip_suffix(":80"))
        .unwrap_or(&registry);
    let registry = match registry {
        "registry-1.docker.io" | "index.docker.io" => "docker.io",
        registry => registry,
    };
    path.map_or(registry.to_owned(), |path| format!("{registry}/{path}"))
}

fn read_key(path: &Path) -> Result<PublicKey, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    PublicKey::from_pem(&pem).map_err(|rule| format!("{}: {rule}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_scope_counts() {
        let rule = |scope: &str, rule| TrustRule {
            scope: scope.to_owned(),
            rule,
            keys: Vec::new(),
        };
        let rules = [
            rule("*", Verdict::Refuse),
            rule("docker.io", Verdict::Allow),
            rule("docker.io/library/", Verdict::Refuse),
            rule("localhost:5000/team", Verdict::Allow),
        ];
        let trust = Trust::read(&rules).unwrap();
        for (name, may_come) in [
            ("nginx", false),
            ("me/blog", true),
            ("docker.io/libraryx/a", true),
            ("quay.io/a", false),
            ("localhost:5000/team/app:1", true),
            ("localhost:5000/teams/app", false),
            // However it is spelled.
            ("LOCALHOST:05000/team/app", true),
            ("DOCKER.io/library/nginx", false),
            ("docker.io:443/library/nginx", false),
            ("registry-1.docker.io/library/nginx", false),
            ("registry-1.docker.io/me/blog", true),
        ] {
            let is_allowed = matches!(trust.demand(&name.parse().unwrap()), Demand::Nothing);
            assert_eq!(is_allowed, may_come, "{name}");
        }
        assert!(matches!(
            Trust::default().demand(&"x".parse().unwrap()),
            Demand::Nothing
        ));
    }

    #[test]
    fn rules_that_make_no_sense_are_named() {
        let rule = |rule, keys: &[&str]| TrustRule {
            scope: "quay.io".to_owned(),
            rule,
            keys: keys.iter().map(PathBuf::from).collect(),
        };
        for (rule, words) in [
            (rule(Verdict::Require, &[]), "require needs keys"),
            (rule(Verdict::Refuse, &["k.pem"]), "keys are for the rule require"),
            (rule(Verdict::Require, &["/no/such.pem"]), "/no/such.pem: No such file"),
            (
                rule(Verdict::Require, &["/etc/hostname"]),
                "/etc/hostname: no public key",
            ),
        ] {
            let error = Trust::read(&[rule]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
