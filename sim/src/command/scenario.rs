//! `kauri-sim scenario`: runs a plan from a file.

use kauri_sim::plan::Plan;

use super::{
    Failed,
    arguments::{Arguments, UsageError},
    replay::{Options, replay},
};

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failed> {
    let options = Options::take(&mut arguments)?;
    let file = arguments.positional("FILE")?;
    arguments.end()?;
    let text = std::fs::read_to_string(&file)
        .map_err(|error| UsageError::Refused(format!("{file} cannot be read: {error}")))?;
    let plan: Plan = text.parse().map_err(|error| UsageError::Refused(format!("{file}: {error}")))?;
    replay(&plan, &options, &format!("kauri-sim scenario {file}"))
}
