//! Configuration from environment variables: `KAURI_` and the name of a key in capitals.
//!
//! Kubernetes sets variables of its own for every Service of a namespace, and for one whose name begins with "kauri"
//! they begin with `KAURI_`. Those say nothing about configuration; every other unknown name is a mistake.

use super::{
    key::Key,
    layer::{Layer, Origin},
    nearest::nearest,
    server::SettingsError,
};

const PREFIX: &str = "KAURI_";

impl Layer {
    /// From the variables of the process, or of a test. Those of other programs are passed over.
    pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let mut layer = Self::default();
        for (name, value) in variables {
            if !name.starts_with(PREFIX) {
                continue;
            }
            let origin = Origin::Variable(name.clone());
            match Key::ALL.into_iter().find(|key| key.variable() == name) {
                Some(key) => layer.set_text(key, &value, &origin),
                None if is_of_a_service(&name) => {}
                None => {
                    let known: Vec<String> = Key::ALL.into_iter().map(Key::variable).collect();
                    let nearest = nearest(&name, known.iter().map(String::as_str)).map(str::to_owned);
                    return Err(SettingsError::UnknownVariable { name, nearest });
                }
            }
        }
        Ok(layer)
    }
}

/// Whether a variable has the shape of those that Kubernetes sets for a Service: `KAURI_SERVICE_HOST`,
/// `KAURI_SERVICE_PORT` and `KAURI_PORT`, the latter two perhaps with more behind (`KAURI_PORT_9092_TCP_ADDR`), and all of
/// them perhaps with more of the Service's name in the middle (`KAURI_HEADLESS_SERVICE_HOST`).
fn is_of_a_service(name: &str) -> bool {
    // Of the Service's name, PREFIX is the first part, so that what follows is preceded by an underscore.
    let rest = &name[PREFIX.len() - 1..];
    rest.ends_with("_SERVICE_HOST") || rest.ends_with("_PORT") || rest.contains("_PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Result<Layer, SettingsError> {
        Layer::from_environment([(name.to_owned(), "tcp://10.0.0.1:9092".to_owned())])
    }

    #[test]
    fn a_service_named_kauri_does_not_keep_a_node_from_starting() {
        for name in [
            "KAURI_SERVICE_HOST",
            "KAURI_SERVICE_PORT",
            "KAURI_SERVICE_PORT_CLIENTS",
            "KAURI_PORT",
            "KAURI_PORT_9092_TCP",
            "KAURI_PORT_9092_TCP_PROTO",
            "KAURI_HEADLESS_SERVICE_HOST",
            "KAURI_HEADLESS_SERVICE_PORT_PEERS",
            "KAURI_HEADLESS_PORT",
            "KAURI_HEADLESS_PORT_9192_TCP_ADDR",
        ] {
            assert_eq!(layer(name).unwrap(), Layer::default(), "{name}");
        }
        for name in ["KAURI_", "KAURI_HOST", "KAURI_SERVICE", "KAURI_PORTS", "KAURI_LISTENPORT", "KAURI_SERVICE_HOSTS"]
        {
            assert!(matches!(layer(name), Err(SettingsError::UnknownVariable { .. })), "{name}");
        }
    }
}
