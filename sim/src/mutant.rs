//! Planted bugs: does the simulator find them?
//!
//! Invariant: without the feature `mutants` there is nothing to plant, and the core is what is shipped.

/// Why a bug was not planted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MutantError {
    #[error("this build has no planted bugs: build it with --features mutants")]
    NotBuilt,
    #[error("there is no planted bug \"{name}\"; there are: {known}")]
    Unknown { name: String, known: String },
}

/// Plants a bug into every core of this process, from now on.
#[cfg(feature = "mutants")]
pub fn plant(name: &str) -> Result<(), MutantError> {
    use kauri_core::mutants::Mutant;

    match Mutant::ALL.iter().find(|mutant| mutant.name() == name) {
        Some(mutant) => {
            mutant.plant();
            Ok(())
        }
        None => {
            let known: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
            Err(MutantError::Unknown { name: name.to_owned(), known: known.join(", ") })
        }
    }
}

/// All that can be planted; none without the feature.
pub fn names() -> Vec<&'static str> {
    #[cfg(feature = "mutants")]
    return kauri_core::mutants::Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    #[cfg(not(feature = "mutants"))]
    Vec::new()
}

#[cfg(not(feature = "mutants"))]
pub fn plant(_name: &str) -> Result<(), MutantError> {
    Err(MutantError::NotBuilt)
}
