//! `kauri-sim plan`: the plan of a seed as text.

use kauri_sim::plan::Plan;

use super::{
    Failed,
    arguments::{Arguments, read},
    print,
};

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failed> {
    let seed = read("SEED", arguments.positional("SEED")?)?;
    arguments.end()?;
    print::line(format_args!("{}", Plan::draw(seed)));
    Ok(())
}
