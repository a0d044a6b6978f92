//! Where a server's configuration comes from: a file, then the environment, then flags, each overriding the one
//! before.
//!
//! Invariant: every mistake is one sentence that names where it was made, and nothing unknown is passed over: a
//! misspelt key would otherwise silently keep its default. Does not know what the values do.

mod environment;
mod file;
mod key;
mod layer;
mod nearest;
mod server;

pub use self::{
    key::Key,
    layer::{Layer, Origin},
    server::{LogFormat, LogLevel, ServerSettings, SettingsError, UnknownName},
};
