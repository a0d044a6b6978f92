//! `kauri log dump`: every record of the write-ahead log, a line each.

use std::path::PathBuf;

use clap::Args;
use kauri_core::{
    ids::GroupId,
    io::{Directory, FileName},
    log::offline::wal::{WalItem, WalItemKind, scan},
};
use serde_json::{Value, json};

use super::directory::NodeDirectory;
use crate::command::{failure::Failure, say};

/// Prints every record of the write-ahead log, oldest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri log dump --data-dir /var/lib/kauri\n  \
                        kauri log dump --data-dir /var/lib/kauri --group 7 --json")]
pub(super) struct Dump {
    /// The data directory of a node that is not running, or of a `kauri dev`
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Only what belongs to this group
    #[arg(long, value_name = "NUMBER")]
    group: Option<u64>,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl Dump {
    pub(super) fn run(self) -> Result<(), Failure> {
        for node in NodeDirectory::open_all(&self.data_dir)? {
            for name in node.list(Directory::Wal)? {
                let FileName::Wal(sequence) = name else { continue };
                let path = node.path().join(name.path()).display().to_string();
                let mut lines = String::new();
                scan(node.identity.wal_key, sequence, &node.read(name)?, |item| {
                    if self.group.is_none_or(|group| item.kind.group() == Some(GroupId(group))) {
                        lines.push_str(&if self.json { json_of(&path, item) } else { text_of(&path, item) });
                        lines.push('\n');
                    }
                });
                say(&lines)?;
            }
        }
        Ok(())
    }
}

fn text_of(path: &str, item: &WalItem) -> String {
    let what = match item.kind {
        WalItemKind::Entry { group, index, term } => format!("entry  group {group}  index {index}  term {term}"),
        WalItemKind::Fill { group, index, term } => {
            format!("repaired entry  group {group}  index {index}  term {term}")
        }
        WalItemKind::HardState { group, replica, term, vote, commit } => {
            let vote = if vote.0 == 0 { "none".to_owned() } else { vote.to_string() };
            format!("hard state  group {group}  replica {replica}  term {term}  vote {vote}  commit {commit}")
        }
        WalItemKind::Create { group, replica } => format!("create  group {group}  replica {replica}"),
        WalItemKind::Destroy { group, replica } => format!("destroy  group {group}  replica {replica}"),
        WalItemKind::Switch { group, replica } => format!("switch  group {group}  replica {replica}"),
        WalItemKind::Quarantine { group, replica, index } => {
            format!("quarantine  group {group}  replica {replica}  index {index}")
        }
        WalItemKind::CheckpointDone => "checkpoint done".to_owned(),
    };
    let damaged = if item.intact { "" } else { "  DAMAGED" };
    format!("{path}  byte {}  write {}  {what}  {} bytes{damaged}", item.offset, item.write, item.length)
}

fn json_of(path: &str, item: &WalItem) -> String {
    let mut object = json!({
        "file": path,
        "offset": item.offset,
        "write": item.write.0,
        "bytes": item.length,
        "intact": item.intact,
    });
    let (kind, fields): (&str, &[(&str, u64)]) = match item.kind {
        WalItemKind::Entry { group, index, term } => {
            ("entry", &[("group", group.0), ("index", index.0), ("term", term.0)])
        }
        WalItemKind::Fill { group, index, term } => {
            ("fill", &[("group", group.0), ("index", index.0), ("term", term.0)])
        }
        WalItemKind::HardState { group, replica, term, vote, commit } => (
            "hard state",
            &[("group", group.0), ("replica", replica.0), ("term", term.0), ("vote", vote.0), ("commit", commit.0)],
        ),
        WalItemKind::Create { group, replica } => ("create", &[("group", group.0), ("replica", replica.0)]),
        WalItemKind::Destroy { group, replica } => ("destroy", &[("group", group.0), ("replica", replica.0)]),
        WalItemKind::Switch { group, replica } => ("switch", &[("group", group.0), ("replica", replica.0)]),
        WalItemKind::Quarantine { group, replica, index } => {
            ("quarantine", &[("group", group.0), ("replica", replica.0), ("index", index.0)])
        }
        WalItemKind::CheckpointDone => ("checkpoint done", &[]),
    };
    object["kind"] = Value::from(kind);
    for (name, value) in fields {
        object[name] = Value::from(*value);
    }
    object.to_string()
}
