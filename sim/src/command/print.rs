//! Printing that ends quietly when nobody reads any more, as in `kauri-sim plan 1 | head`.

use std::{
    fmt,
    io::{ErrorKind, Write as _},
    process,
};

pub(super) fn line(line: fmt::Arguments<'_>) {
    let printed = std::io::stdout().write_fmt(format_args!("{line}\n"));
    match printed {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => process::exit(0),
        Err(error) => {
            eprintln!("kauri-sim: the output cannot be written: {error}");
            process::exit(2);
        }
    }
}
