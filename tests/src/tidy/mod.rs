//! Rules about the repository's files that no compiler checks.
//!
//! Each test is one rule and names every file that breaks it. Invariant: a rule reads text only, so it may be fooled,
//! but it needs no build and no exception list that grows.

mod files;
mod layers;
mod links;

use self::files::{File, repository};

/// A file beyond this has more than one subject.
const LINES_MAX: usize = 1000;
/// Larger files do not belong into a repository of text.
const BLOB_BYTES_MAX: usize = 1 << 20;

/// Words that the pure crates may not contain, each with what to use instead.
const BANNED_IN_PURE_CODE: [(&str, &str); 10] = [
    ("std::fs", "an effect"),
    ("std::net", "an effect"),
    ("std::thread", "the driver's threads"),
    ("Instant::now", "the `Now` that is handed in"),
    ("SystemTime::now", "the `Now` that is handed in"),
    ("tokio", "an effect"),
    ("thread_rng", "a named stream of rng"),
    ("todo!", "code"),
    ("unimplemented!", "code"),
    ("dbg!", "slog"),
];

/// Asserts that no file broke a rule.
fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

fn rust_files() -> Vec<File> {
    repository().into_iter().filter(File::is_rust).collect()
}

/// The core, its protocol, and the half of the client that is told the time.
fn pure_files() -> Vec<File> {
    let is_pure = |file: &File| {
        file.is_below("core/src")
            || file.is_below("core/protocol/src")
            || file.is_below("core/raft-proto/src")
            // The other half of the client, and the file that names it.
            || file.is_below("client/src") && !file.is_below("client/src/tokio") && !file.is_below("client/src/lib.rs")
    };
    rust_files().into_iter().filter(is_pure).collect()
}

/// Every line of code that contains one of `words`, as `path:line: word, use ...`.
fn lines_with(files: &[File], words: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.code() {
            for (word, instead) in words.iter().filter(|(word, _)| line.contains(word)) {
                found.push(format!("{}:{number}: {word}; use {instead}", file.path.display()));
            }
        }
    }
    found
}

#[test]
fn the_core_and_the_pure_client_touch_nothing_of_the_world() {
    assert_none("pure code touches the world", &lines_with(&pure_files(), &BANNED_IN_PURE_CODE));
}

#[test]
fn nothing_pure_waits_by_sleeping_and_no_test_is_switched_off() {
    // In two parts, so that this file is not found.
    let ignored = (concat!("#[", "ignore"), "a test that runs");
    assert_none("tests are switched off", &lines_with(&rust_files(), &[ignored]));
    let sleeping: Vec<File> =
        rust_files().into_iter().filter(|file| file.is_below("core") || file.is_below("client")).collect();
    assert_none("code sleeps", &lines_with(&sleeping, &[("thread::sleep", "a deadline")]));
}

#[test]
fn only_replication_names_the_raft_crate() {
    let others: Vec<File> = rust_files()
        .into_iter()
        .filter(|file| file.is_below("core/src") && !file.is_below("core/src/replication"))
        .collect();
    let instead = "what replication offers";
    let words = ["use raft::", "raft::prelude", "raft::eraftpb", "raft_proto", "::raft::"].map(|word| (word, instead));
    assert_none("Raft is named outside of replication", &lines_with(&others, &words));
}

#[test]
fn modules_of_the_core_use_only_what_lies_below_them() {
    let core: Vec<File> = rust_files().into_iter().filter(|file| file.is_below("core/src")).collect();
    assert_none("modules use what lies above them", &layers::violations(&core));
}

#[test]
fn files_have_one_subject() {
    let long: Vec<String> = rust_files()
        .iter()
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path.display()))
        .collect();
    assert_none("files are too long", &long);
}

#[test]
fn modules_say_what_they_own() {
    let silent: Vec<String> = rust_files()
        .iter()
        .filter(|file| file.has_component("src") && !file.is_test() && !file.text.starts_with("//!"))
        .map(|file| file.path.display().to_string())
        .collect();
    assert_none("modules do not open with what they own", &silent);
}

#[test]
fn merges_are_finished() {
    let has_marks =
        |file: &&File| file.text.lines().any(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
    let marked: Vec<String> =
        repository().iter().filter(has_marks).map(|file| file.path.display().to_string()).collect();
    assert_none("files hold the marks of a merge", &marked);
}

#[test]
fn the_repository_holds_text() {
    let large: Vec<String> = repository()
        .iter()
        .filter(|file| file.bytes > BLOB_BYTES_MAX)
        .map(|file| format!("{}: {} bytes", file.path.display(), file.bytes))
        .collect();
    assert_none("files are too large", &large);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents: Vec<File> =
        repository().into_iter().filter(|file| file.path.extension().is_some_and(|found| found == "md")).collect();
    assert!(!documents.is_empty());
    assert_none("links lead nowhere", &links::broken(&documents));
}
