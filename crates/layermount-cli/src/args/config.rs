//! `run --config`: options out of a file. What is in it is read in `crate::config`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

#[derive(Debug, Default, Args)]
pub(crate) struct ConfigFile {
    /// Take image, command and options from a TOML file; what is given here goes first
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}
