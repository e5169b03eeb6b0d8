//! Completions and manual pages, made from the definitions of the command line.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::{Failure, Result};

pub(crate) fn completions(shell: Shell, out: &mut dyn Write) -> Result<()> {
    // Into memory first: clap_complete panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "layermount", &mut script);
    Ok(out.write_all(&script)?)
}

pub(crate) fn man(directory: Option<&Path>, out: &mut dyn Write) -> Result<()> {
    match directory {
        None => Ok(clap_mangen::Man::new(Cli::command()).render(out)?),
        Some(directory) => clap_mangen::generate_to(Cli::command(), directory).map_err(|error| {
            Failure::io(format!("cannot write manual pages to {}", directory.display()), error)
                .with_hint("the directory must exist, and you must be allowed to write to it")
        }),
    }
}
