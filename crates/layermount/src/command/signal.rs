//! [`Signal`]: what a program can be sent, and what it is stopped by.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::error::CommandError;

/// The real-time signals as the C library leaves them to programs (signal(7)).
const REAL_TIME: RangeInclusive<i32> = 34..=64;

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// `SIGINT`.
    pub const INT: Self = Self(nix::libc::SIGINT);
    /// `SIGTERM`.
    pub const TERM: Self = Self(nix::libc::SIGTERM);
    /// `SIGKILL`.
    pub const KILL: Self = Self(nix::libc::SIGKILL);
    /// `SIGHUP`.
    pub const HUP: Self = Self(nix::libc::SIGHUP);
    /// `SIGQUIT`.
    pub const QUIT: Self = Self(nix::libc::SIGQUIT);

    /// By number: those that have a name, and the real-time signals.
    pub fn from_number(number: i32) -> Option<Self> {
        let named = || nix::sys::signal::Signal::try_from(number).is_ok();
        (REAL_TIME.contains(&number) || named()).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// `SIGTERM`, `SIGRTMIN+3`.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) => write!(f, "SIGRTMIN+{}", self.0 - REAL_TIME.start()),
        }
    }
}

/// Not a signal.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not a signal, such as SIGTERM, TERM, RTMIN+3 or 15")]
pub struct ParseSignalError {
    text: String,
}

impl crate::error::Fault for ParseSignalError {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::InvalidInput
    }
}

/// `SIGTERM`, `TERM`, `term`, `SIGRTMIN+3` or `15`, as in an image's `StopSignal`.
impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = match text.parse() {
            Ok(number) => Some(number),
            Err(_) => real_time(name)
                .or_else(|| format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)),
        };
        number.and_then(Self::from_number).ok_or_else(|| ParseSignalError { text: text.chars().take(40).collect() })
    }
}

/// `RTMIN`, `RTMIN+N`, `RTMAX-N`, `RTMAX`.
fn real_time(name: &str) -> Option<i32> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let number: i32 = match (name, name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        ("RTMIN", ..) => *REAL_TIME.start(),
        ("RTMAX", ..) => *REAL_TIME.end(),
        (_, Some(above), _) => REAL_TIME.start().checked_add(digits(above)?)?,
        (_, _, Some(below)) => REAL_TIME.end().checked_sub(digits(below)?)?,
        _ => return None,
    };
    REAL_TIME.contains(&number).then_some(number)
}

/// What a program is stopped by.
#[derive(Debug, Clone, Default)]
pub(super) enum StopSignal {
    #[default]
    Term,
    Known(Signal),
    /// The image says what is no signal, which is a mistake for whoever starts a program of it, as for Docker.
    Unknown(String),
}

impl StopSignal {
    pub(super) fn of_image(text: Option<&str>) -> Self {
        match text.map(|text| (text, text.parse())) {
            None => Self::Term,
            Some((_, Ok(signal))) => Self::Known(signal),
            Some((text, Err(_))) => Self::Unknown(text.chars().take(40).collect()),
        }
    }

    /// When somebody has said what it is.
    pub(super) fn annotation(&self) -> Option<Signal> {
        match self {
            Self::Known(signal) => Some(*signal),
            Self::Term | Self::Unknown(_) => None,
        }
    }

    pub(super) fn signal(&self) -> Result<Signal, CommandError> {
        match self {
            Self::Term => Ok(Signal::TERM),
            Self::Known(signal) => Ok(*signal),
            Self::Unknown(text) => Err(CommandError::StopSignal { text: text.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGTERM", "TERM", "term", "sigterm", "15"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        for (text, number) in [("SIGRTMIN+3", 37), ("rtmin", 34), ("RTMAX-14", 50), ("SIGRTMAX", 64), ("37", 37)] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "65",
            "33",
            "SIGSIGTERM",
            "x",
            "RTMIN+31",
            "RTMIN+-1",
            "RTMAX-31",
            "RTMIN+",
            "RTMIN+99999999999",
        ] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!("37".parse::<Signal>().unwrap().to_string(), "SIGRTMIN+3");
    }

    #[test]
    fn what_an_image_says_is_believed_or_refused() {
        assert_eq!(StopSignal::of_image(None).signal().unwrap(), Signal::TERM);
        assert_eq!(StopSignal::of_image(Some("SIGQUIT")).signal().unwrap(), Signal::QUIT);
        assert!(StopSignal::of_image(Some("SIGNAL")).signal().is_err());
    }
}
