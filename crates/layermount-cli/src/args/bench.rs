//! `layermount bench`.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::{Choice, Making};

const AFTER_HELP: &str = "\
Without COMMAND, /bin/true is run. A COMMAND takes the place of the image's Cmd, as in `layermount run`, and has to end by itself.

Exit status: 0; 1 when it failed, or when something is slower than --baseline allows; 2 when the command line is wrong.";

/// Starts a program inside an image again and again, and tells where the time goes.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    /// How often [default: 100, with --cold 5]
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU32>,

    /// Begin each run with an empty store, which is removed afterwards
    #[arg(long)]
    pub(crate) cold: bool,

    /// Print an object, which --baseline takes
    #[arg(long)]
    pub(crate) json: bool,

    /// Compare with what --json has printed before, and fail when something has become slower
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,

    /// By how much a median may grow
    #[arg(long, value_name = "PERCENT", default_value = "10%", requires = "baseline")]
    pub(crate) max_regression: Percent,

    #[command(flatten)]
    pub(crate) choice: Choice,

    #[command(flatten)]
    pub(crate) making: Making,

    /// The image, then the program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    words: Vec<OsString>,
}

impl BenchArgs {
    /// Enough for a median that stays the same, in a time that one can wait for.
    pub(crate) fn runs(&self) -> u32 {
        self.runs.map_or(if self.cold { 5 } else { 100 }, NonZeroU32::get)
    }

    pub(crate) fn image(&self) -> Option<&str> {
        self.words.first()?.to_str()
    }

    pub(crate) fn command(&self) -> &[OsString] {
        match self.words.get(1..).unwrap_or_default() {
            [dashes, command @ ..] if dashes == "--" => command,
            command => command,
        }
    }
}

/// `10%`, or `10`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Percent(pub(crate) f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
        let number = number.filter(|number: &f64| number.is_finite() && *number >= 0.0);
        number.map(Self).ok_or_else(|| "write a percentage, such as 10%".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!("10%".parse(), Ok(Percent(10.0)));
        assert_eq!("2.5".parse(), Ok(Percent(2.5)));
        for bad in ["", "%", "-1", "inf", "NaN%", "10%%"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }
}
