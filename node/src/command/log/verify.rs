//! `kauri log verify`: checks every file of a node against its checksums.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use bytes::Bytes;
use clap::Args;
use kauri_core::{
    ids::{CheckpointNumber, GroupId, Offset},
    io::{Directory, FileName, SegmentFile},
    log::{
        checkpoint::CheckpointDone,
        offline::{
            Finding, checkpoint,
            wal::{WalItemKind, damage, scan},
        },
        segment::{LogImage, SegmentCheck},
    },
};
use serde_json::{Value, json};

use super::directory::{NodeDirectory, names};
use crate::command::{failure::Failure, say};

/// Checks the files of a node and names file and byte of any damage
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri log verify --data-dir /var/lib/kauri\n  \
                        kauri log verify --data-dir /var/lib/kauri --json\n\n\
                        Ends with 0 if everything is intact and with 1 if something is damaged.")]
pub(super) struct Verify {
    /// The data directory of a node that is not running, or of a `kauri dev`
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was looked at.
#[derive(Debug, Default)]
struct Checked {
    files: u64,
    bytes: u64,
    findings: Vec<(String, Finding)>,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut checked = Checked::default();
        let progress = Progress::new();
        for node in NodeDirectory::open_all(&self.data_dir)? {
            let found = check(&node, &mut checked, &progress)?;
            let path = |finding: &Finding| node.path().join(finding.file.path()).display().to_string();
            checked.findings.extend(found.into_iter().map(|finding| (path(&finding), finding)));
        }
        progress.end();
        say(&if self.json { json_of(&checked) } else { text_of(&checked) })?;
        if checked.findings.is_empty() { Ok(()) } else { Err(Failure::DamageFound(checked.findings.len())) }
    }
}

fn check(node: &NodeDirectory, checked: &mut Checked, progress: &Progress) -> Result<Vec<Finding>, Failure> {
    let key = node.identity.wal_key;
    let mut wal = Vec::new();
    let mut done: BTreeMap<CheckpointNumber, CheckpointDone> = BTreeMap::new();
    for name in node.list(Directory::Wal)? {
        let FileName::Wal(sequence) = name else { continue };
        let bytes = read(node, name, checked, progress)?;
        wal.push(scan(key, sequence, &bytes, |item| {
            if item.kind == WalItemKind::CheckpointDone
                && let Ok(record) = CheckpointDone::decode(&item.payload)
            {
                done.insert(record.number, record);
            }
        }));
    }
    let mut checkpoints = Vec::new();
    for name in node.list(Directory::Checkpoints)? {
        // One that no record names was interrupted, and nothing relies on it.
        if let FileName::Checkpoint(number) = name
            && let Some(record) = done.get(&number)
        {
            checkpoints.push(checkpoint::check(key, record, &read(node, name, checked, progress)?));
        }
    }
    let base = checkpoints.iter().filter_map(|found| found.from).map(|from| from.file).min();
    let newest = checkpoints.pop();
    let mut findings = damage(&wal, base, newest.as_ref());
    findings.extend(checkpoints.into_iter().flat_map(|found| found.findings));
    let newest = newest.unwrap_or_default();
    findings.extend(newest.findings);
    for (group, image) in &newest.images {
        let name = FileName::Image { group: *group, checkpoint: image.checkpoint };
        let bytes = node.exists(name).then(|| read(node, name, checked, progress)).transpose()?;
        findings.extend(checkpoint::check_image(key, *group, image, bytes.as_ref()));
    }
    for group in groups(node, &newest.logs)? {
        findings.extend(check_group(node, group, newest.logs.get(&group), checked, progress)?);
    }
    Ok(findings)
}

/// Groups that have files, or should have.
fn groups(node: &NodeDirectory, named: &BTreeMap<GroupId, LogImage>) -> Result<BTreeSet<GroupId>, Failure> {
    let names = names(&node.path().join(Directory::Groups.path()))?;
    let there = names.iter().filter_map(|name| name.parse().ok().map(GroupId));
    Ok(there.chain(named.keys().copied()).collect())
}

fn check_group(
    node: &NodeDirectory,
    group: GroupId,
    named: Option<&LogImage>,
    checked: &mut Checked,
    progress: &Progress,
) -> Result<Vec<Finding>, Failure> {
    let mut bases: BTreeSet<Offset> = named.into_iter().flat_map(LogImage::segments).collect();
    for name in node.list(Directory::Group(group))? {
        if let FileName::Segment { base, .. } = name {
            bases.insert(base);
        }
    }
    let mut findings = Vec::new();
    for base in bases {
        let file = |kind| FileName::Segment { group, base, kind };
        let (log, side) = (file(SegmentFile::Log), file(SegmentFile::Checksums));
        let side = node.exists(side).then(|| read(node, side, checked, progress)).transpose()?;
        let mut opened = if node.exists(log) { Some(node.open_file(log)?) } else { None };
        let length = opened.as_ref().map(|(_, length)| *length);
        let mut check = SegmentCheck::new(group, base, side.as_deref(), length, named);
        progress.show(checked.files, log);
        while let Some((_, bytes)) = check.wanted() {
            // Chunks come one after the other, from the first on.
            let (file, _) = opened.as_mut().expect("chunks of a file that is missing are not wanted");
            check.chunk(&node.read_next(log, file, bytes)?);
            checked.bytes += bytes as u64;
        }
        checked.files += u64::from(opened.is_some());
        findings.extend(check.finish());
    }
    Ok(findings)
}

fn read(node: &NodeDirectory, name: FileName, checked: &mut Checked, progress: &Progress) -> Result<Bytes, Failure> {
    progress.show(checked.files, name);
    let bytes = node.read(name)?;
    checked.files += 1;
    checked.bytes += bytes.len() as u64;
    Ok(bytes)
}

fn text_of(checked: &Checked) -> String {
    let mut text = String::new();
    for (path, finding) in &checked.findings {
        let entry =
            finding.entry.map_or_else(String::new, |(group, index)| format!(" (entry {index} of group {group})"));
        text.push_str(&format!("{path} is damaged at byte {}: {}{entry}\n", finding.offset, finding.what));
    }
    let damage = match checked.findings.len() {
        0 => "no damage".to_owned(),
        1 => "1 damaged place".to_owned(),
        places => format!("{places} damaged places"),
    };
    text.push_str(&format!("{} files with {} bytes checked: {damage}\n", checked.files, checked.bytes));
    text
}

fn json_of(checked: &Checked) -> String {
    let findings: Vec<Value> = checked
        .findings
        .iter()
        .map(|(path, finding)| {
            let entry = finding.entry.map(|(group, index)| json!({ "group": group.0, "index": index.0 }));
            json!({ "file": path, "offset": finding.offset, "what": finding.what, "entry": entry })
        })
        .collect();
    format!("{:#}\n", json!({ "files": checked.files, "bytes": checked.bytes, "damage": findings }))
}

/// A line on standard error that is overwritten, if a person looks at it.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    fn show(&self, files: u64, name: FileName) {
        if self.terminal {
            // Without standard error there is nobody to tell.
            drop(write!(io::stderr(), "\r{files} files checked; {}\x1b[K", name.path()));
        }
    }

    fn end(&self) {
        if self.terminal {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}
