//! The words of a command line.

use std::{ops::Range, str::FromStr};

use kauri_sim::plan::{Plan, Swarm};

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("\"{0}\" is not understood")]
    Unknown(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("\"{value}\" cannot be read as {what}")]
    Value { what: &'static str, value: String },
    #[error("{0}")]
    Refused(String),
}

/// What was not taken yet.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn new(words: &[String]) -> Self {
        Self(words.to_vec())
    }

    /// Whether a flag is there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let place = self.0.iter().position(|word| word == name);
        place.map(|place| self.0.remove(place)).is_some()
    }

    /// The word after `name`, if that is there.
    pub(crate) fn option(&mut self, name: &'static str) -> Result<Option<String>, UsageError> {
        let Some(place) = self.0.iter().position(|word| word == name) else { return Ok(None) };
        self.0.remove(place);
        if place < self.0.len() { Ok(Some(self.0.remove(place))) } else { Err(UsageError::Missing(name)) }
    }

    pub(crate) fn number<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, UsageError> {
        self.option(name)?.map(|value| read(name, value)).transpose()
    }

    /// The next word that belongs to no option. To be asked for after all options.
    pub(crate) fn positional(&mut self, what: &'static str) -> Result<String, UsageError> {
        if self.0.is_empty() { Err(UsageError::Missing(what)) } else { Ok(self.0.remove(0)) }
    }

    pub(crate) fn end(self) -> Result<(), UsageError> {
        self.0.into_iter().next().map_or(Ok(()), |word| Err(UsageError::Unknown(word)))
    }
}

pub(crate) fn read<T: FromStr>(what: &'static str, value: String) -> Result<T, UsageError> {
    value.parse().map_err(|_| UsageError::Value { what, value })
}

/// Which kinds of damage to disks seeds may draw.
pub(crate) fn swarm(arguments: &mut Arguments) -> Result<Option<String>, UsageError> {
    let text = arguments.option("--media")?;
    if let Some(text) = &text {
        text.parse::<Swarm>().map_err(|error| UsageError::Refused(error.to_string()))?;
    }
    Ok(text)
}

/// How many seeds run at a time.
pub(crate) fn jobs(arguments: &mut Arguments) -> Result<usize, UsageError> {
    match arguments.number("--jobs")? {
        Some(0) => Err(UsageError::Refused("--jobs must be at least 1".to_owned())),
        Some(jobs) => Ok(jobs),
        None => Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
    }
}

/// The plan of a seed.
pub(crate) fn draw(seed: u64, media: Option<&str>) -> Plan {
    let swarm = media.map_or_else(Swarm::default, |text| text.parse().expect("checked when it was read"));
    Plan::draw_with(seed, &swarm)
}

/// `A..B`, or `A` for that one alone.
pub(crate) fn seeds(value: &str) -> Result<Range<u64>, UsageError> {
    let error = || UsageError::Value { what: "seeds A..B", value: value.to_owned() };
    let (first, end) = match value.split_once("..") {
        Some((first, end)) => (first.parse().map_err(|_| error())?, end.parse().map_err(|_| error())?),
        None => {
            let first: u64 = value.parse().map_err(|_| error())?;
            (first, first.checked_add(1).ok_or_else(error)?)
        }
    };
    if first < end { Ok(first..end) } else { Err(error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_in_any_order() {
        let words = ["--json", "7", "--jobs", "3"].map(str::to_owned);
        let mut arguments = Arguments::new(&words);
        assert_eq!(arguments.number::<usize>("--jobs"), Ok(Some(3)));
        assert!(arguments.flag("--json"));
        assert!(!arguments.flag("--trace"));
        assert_eq!(arguments.positional("SEED"), Ok("7".to_owned()));
        assert_eq!(arguments.end(), Ok(()));
        assert_eq!(Arguments::new(&words[3..]).end(), Err(UsageError::Unknown("3".to_owned())));
    }

    #[test]
    fn seeds_are_a_range_that_is_not_empty() {
        assert_eq!(seeds("3..9"), Ok(3..9));
        assert_eq!(seeds("3"), Ok(3..4));
        for wrong in ["", "9..3", "3..3", "x..4", "..4", "18446744073709551615"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
