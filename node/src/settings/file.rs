//! Configuration from a TOML file.

use std::{fs, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    key::{Key, Kind},
    layer::{Layer, Origin},
    nearest::nearest,
    server::SettingsError,
};

const NODE_KEYS: [&str; 3] = ["id", "address", "voter"];

impl Layer {
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let unreadable = |error| SettingsError::Unreadable { path: path.to_owned(), error };
        Self::from_toml(path, &fs::read_to_string(path).map_err(unreadable)?)
    }

    /// From the text of a file; `path` only appears in errors.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let file = File { path, text };
        let table = DeTable::parse(text).map_err(|error| SettingsError::Syntax {
            origin: file.at(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut layer = Self::default();
        for (name, value) in table.get_ref() {
            let origin = file.at(name.span().start);
            let name = name.get_ref().as_ref();
            let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) else {
                return Err(unknown(origin, name, Key::ALL.into_iter().map(Key::name)));
            };
            match (key.kind(), value.get_ref()) {
                (Kind::Nodes, DeValue::Array(nodes)) => {
                    for node in nodes {
                        let origin = file.at(node.span().start);
                        layer.add(key, file.node(node, &origin)?, origin);
                    }
                }
                (kind, value) => match text_of(kind, value) {
                    Some(text) => layer.set(key, text, origin),
                    None => return Err(wrong_type(origin, name, kind, value)),
                },
            }
        }
        Ok(layer)
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn at(&self, position: usize) -> Origin {
        let before = self.text.as_bytes().get(..position).unwrap_or(self.text.as_bytes());
        Origin::file(self.path, 1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// One table of `nodes`, in the form that flags have.
    fn node(&self, node: &Spanned<DeValue<'_>>, origin: &Origin) -> Result<String, SettingsError> {
        let DeValue::Table(table) = node.get_ref() else {
            return Err(wrong_type(origin.clone(), Key::Nodes.name(), Kind::Nodes, node.get_ref()));
        };
        let (mut id, mut address, mut role) = (None, None, "");
        for (name, value) in table {
            let origin = self.at(name.span().start);
            let (name, value) = (name.get_ref().as_ref(), value.get_ref());
            let text = |kind| text_of(kind, value).ok_or_else(|| wrong_type(origin.clone(), name, kind, value));
            match name {
                "id" => id = Some(text(Kind::Number)?),
                "address" => address = Some(text(Kind::Text)?),
                "voter" if text(Kind::Switch)? == "true" => role = "",
                "voter" => role = "/learner",
                _ => return Err(unknown(origin, name, NODE_KEYS)),
            }
        }
        let missing = |key| SettingsError::NodeKeyMissing { origin: origin.clone(), key };
        Ok(format!("{}={}{role}", id.ok_or_else(|| missing("id"))?, address.ok_or_else(|| missing("address"))?))
    }
}

fn text_of(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Some(text.clone().into_owned()),
        (Kind::Number, DeValue::Integer(number)) => {
            // TOML allows 0x10 and 1_000; both mean the plain number to whoever parses it.
            Some(i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string())
        }
        (Kind::Switch, DeValue::Boolean(switch)) => Some(switch.to_string()),
        _ => None,
    }
}

fn wrong_type(origin: Origin, key: &str, kind: Kind, value: &DeValue<'_>) -> SettingsError {
    SettingsError::WrongType { origin, key: key.to_owned(), expected: kind.name(), found: value.type_str() }
}

fn unknown<'a>(origin: Origin, key: &str, known: impl IntoIterator<Item = &'a str>) -> SettingsError {
    let nearest = nearest(key, known).map(str::to_owned);
    SettingsError::UnknownKey { origin, key: key.to_owned(), nearest }
}
