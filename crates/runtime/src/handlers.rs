//! Handlers: who runs a pod's containers, by the name that RunPodSandbox gives (Kubernetes' RuntimeClass).

use cri::v1::{RuntimeHandler, RuntimeHandlerFeatures};
use cri::{Error, Result};
use shim_api::Handler as Foreign;

use crate::config::Config;

/// A handler, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// Hove's own starter.
    Native,
    /// Another vendor's shim, such as `containerd-shim-runc-v2`.
    Shim(Foreign),
}

impl Config {
    /// The handler of this name; with an empty one, the default. `None`: Hove's own.
    pub(crate) fn handler(&self, name: &str) -> Result<Option<&Foreign>> {
        let name = if name.is_empty() { &self.default_handler } else { name };
        match self.handlers.get(name) {
            Some(Handler::Shim(shim)) => Ok(Some(shim)),
            Some(Handler::Native) => Ok(None),
            None if name.is_empty() => Ok(None),
            None => Err(Error::invalid(format!(
                "runtime_handler: {name:?} is not configured on this node ({}); leave it empty for the node's default",
                self.configured()
            ))),
        }
    }

    fn configured(&self) -> String {
        let names: Vec<_> = self.handlers.keys().map(String::as_str).collect();
        match names.is_empty() {
            true => "it has no handlers of other names".into(),
            false => format!("it has {}", names.join(", ")),
        }
    }

    /// What cannot work with any pod is refused before the first.
    pub(crate) fn check_handlers(&self) -> Result<()> {
        self.handler("")?;
        for (name, handler) in &self.handlers {
            if let Handler::Shim(shim) = handler {
                let options = shim.options(&self.state);
                options.map_err(|e| Error::invalid(format!("[handlers.{name}] {e}")))?;
            }
        }
        Ok(())
    }

    /// All of them, the default under the empty name, with what they can do.
    pub(crate) fn runtime_handlers(&self) -> Vec<RuntimeHandler> {
        let default = self.handlers.get(&self.default_handler).unwrap_or(&Handler::Native);
        let all = self.handlers.iter().map(|(name, handler)| (name.as_str(), handler));
        let listed = std::iter::once(("", default)).chain(all);
        listed
            .map(|(name, handler)| RuntimeHandler {
                name: name.into(),
                features: Some(features(handler)),
            })
            .collect()
    }
}

fn features(handler: &Handler) -> RuntimeHandlerFeatures {
    let native = *handler == Handler::Native;
    RuntimeHandlerFeatures {
        recursive_read_only_mounts: native,
        user_namespaces: native,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> Config {
        let mut config = Config::below(Path::new("/run/x"), Path::new("/shim"));
        let runc = Foreign {
            shim: "containerd-shim-runc-v2".into(),
            ..Default::default()
        };
        config.handlers.insert("runc".into(), Handler::Shim(runc));
        config.handlers.insert("own".into(), Handler::Native);
        config
    }

    #[test]
    fn by_name_or_by_default() {
        let mut config = config();
        assert!(config.handler("").unwrap().is_none());
        assert!(config.handler("own").unwrap().is_none());
        assert!(config.handler("runc").unwrap().is_some());
        config.default_handler = "runc".into();
        assert!(config.handler("").unwrap().is_some());
    }

    #[test]
    fn an_unknown_one_is_refused_by_its_name() {
        let refused = config().handler("gvisor").unwrap_err();
        assert!(refused.message.contains("\"gvisor\" is not configured"), "{refused}");
        assert!(refused.message.contains("it has own, runc"), "{refused}");
        let mut config = config();
        config.default_handler = "gvisor".into();
        assert!(config.check_handlers().is_err());
    }

    #[test]
    fn each_is_listed_and_the_default_under_the_empty_name() {
        let listed = config().runtime_handlers();
        let names: Vec<_> = listed
            .iter()
            .map(|h| (h.name.as_str(), h.features.unwrap().user_namespaces))
            .collect();
        assert_eq!(names, [("", true), ("own", true), ("runc", false)]);
    }
}
