//! Configuration from environment variables: `KAURI_` and the name of a key in capitals.

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
