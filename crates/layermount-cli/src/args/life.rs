//! How a program's life goes: its terminal, its init, how it is stopped and who is told of it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueHint};
use layermount::Signal;

/// For `run` and `enter`.
#[derive(Debug, Default, Args)]
pub(crate) struct Streams {
    /// With -t, pass on what is typed; without, standard input is the program's anyway
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Give the program a terminal of its own
    #[arg(short, long)]
    pub(crate) tty: bool,
}

#[derive(Debug, Default, Args)]
pub(crate) struct Life {
    /// Have an init inside that passes on signals and reaps processes
    #[arg(long)]
    pub(crate) init: bool,

    /// What SIGTERM becomes on its way to the program [default: the image's StopSignal]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<Signal>,

    /// Kill the program when it still runs SECONDS after it was asked to stop [default: -1, never]
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<Patience>,

    /// Write the program's process ID into FILE, which must not exist and is removed at the end
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) pidfile: Option<PathBuf>,

    /// Make up an ID for this run, and write it into FILE, which must not exist; its first 12 digits are the host name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) cidfile: Option<PathBuf>,

    /// Kill the program when the process that has started layermount ends
    #[arg(long)]
    pub(crate) die_with_parent: bool,
}

/// How long something is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience(pub(crate) Option<Duration>);

/// Seconds; -1 for ever.
impl FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds: i32 = text.parse().map_err(|_| "write a number of seconds, or -1 for ever".to_owned())?;
        match u64::try_from(seconds) {
            Ok(seconds) => Ok(Self(Some(Duration::from_secs(seconds)))),
            Err(_) if seconds == -1 => Ok(Self(None)),
            Err(_) => Err("write a number of seconds, or -1 for ever".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_in_seconds() {
        assert_eq!("10".parse(), Ok(Patience(Some(Duration::from_secs(10)))));
        assert_eq!("-1".parse(), Ok(Patience(None)));
        for bad in ["", "-2", "1.5", "1s", "99999999999"] {
            assert!(bad.parse::<Patience>().is_err(), "{bad}");
        }
    }
}
