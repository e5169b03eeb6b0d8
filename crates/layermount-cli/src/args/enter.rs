//! `layermount enter`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;

use super::value::absolute_path;
use super::{EnvSetting, Streams};

const USAGE: &str = "layermount enter [OPTIONS] PID [--] COMMAND [ARG]...";

const AFTER_HELP: &str = "\
PID is a process inside an image: what --pidfile of `run` says, as in: layermount enter $(cat FILE) -- sh
COMMAND gets the environment that the process was started with, its user, groups and working directory, and may do no more than it.

Exit status: as `run`.";

#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_help = AFTER_HELP)]
pub(crate) struct EnterArgs {
    /// Set a variable; without a value, pass on the one of this environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<EnvSetting>,

    /// Read variables from a file, one KEY[=VALUE] a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Start in this directory [default: the process's]
    #[arg(short, long, value_name = "DIR", value_parser = absolute_path)]
    pub(crate) workdir: Option<PathBuf>,

    /// Run as this user; names are looked up inside [default: the process's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    #[command(flatten)]
    pub(crate) streams: Streams,

    /// The process, then the program and its arguments
    // One list, so that everything behind the process is the program's, whatever it looks like.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "PID")]
    words: Vec<OsString>,
}

impl EnterArgs {
    /// The process as it was typed.
    pub(crate) fn process(&self) -> &OsStr {
        self.words.first().map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// What was typed behind the process.
    pub(crate) fn command(&self) -> &[OsString] {
        match self.words.get(1..).unwrap_or_default() {
            [dashes, command @ ..] if dashes == "--" => command,
            command => command,
        }
    }
}
