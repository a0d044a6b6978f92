//! Plans that led to bugs of the product, each cured since: `sim/regressions/*.plan`, named after what was wrong.
//!
//! A seed leads to another plan whenever the generator learns something new; the plan itself stays.

use std::{fs, path::Path};

use kauri_sim::{cluster, plan::Plan, trace::Trace};
use slog::{Logger, o};

#[test]
fn what_was_wrong_once_is_not_wrong_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut files: Vec<_> =
        fs::read_dir(directory).expect("it is there").map(|file| file.expect("it can be listed").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("it can be read");
        let plan: Plan = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = cluster::run(&plan, Logger::root(slog::Discard, o!()), Trace::default());
        assert!(
            outcome.failure.is_none() && outcome.healed,
            "{name}: {:?}; kauri-sim scenario {}",
            outcome.failure,
            file.display()
        );
    }
}
