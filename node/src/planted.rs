//! A planted bug in a real process, to see whether tests find it. Compiled only with the feature `mutants`.
//!
//! Invariant: nothing is planted unless the variable names it, and whoever starts such a process is told.

use kauri_core::mutants::Mutant;

const VARIABLE: &str = "PLANTED_BUG";

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlantError {
    #[error("{VARIABLE} names no planted bug: \"{name}\"; there are: {known}")]
    Unknown { name: String, known: String },
}

/// Plants the bug that the environment names, if it names one.
pub(crate) fn plant() -> Result<(), PlantError> {
    let Some(name) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let name = name.to_string_lossy().into_owned();
    match Mutant::ALL.iter().find(|mutant| mutant.name() == name) {
        Some(mutant) => {
            eprintln!("kauri: this process has a planted bug and will lose data: {name}");
            mutant.plant();
            Ok(())
        }
        None => {
            let known: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
            Err(PlantError::Unknown { name, known: known.join(", ") })
        }
    }
}
