//! `kauri-sim plan`: the plan of a seed as text.

use super::{
    Failed,
    arguments::{Arguments, draw, read, swarm},
    print,
};

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failed> {
    let media = swarm(&mut arguments)?;
    let seed = read("SEED", arguments.positional("SEED")?)?;
    arguments.end()?;
    print::line(format_args!("{}", draw(seed, media.as_deref())));
    Ok(())
}
