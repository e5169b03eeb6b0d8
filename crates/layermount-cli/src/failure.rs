//! Why a command ended without doing what it was asked: what is printed, and the exit status that goes with it.

use std::error::Error as _;
use std::fmt;
use std::io;

use layermount::ErrorKind;

use crate::start::ExitCode;

/// What fallible functions of the binary return.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failure, ready to be told to a person or a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What failed.
    pub(crate) message: String,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// The class of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command line is wrong.
    Usage,
    /// Whoever reads our output has seen enough. Nobody is told.
    BrokenPipe,
    /// The library says why.
    Library(ErrorKind),
}

impl Kind {
    /// A stable name, for `--log-format json`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::BrokenPipe => "broken_pipe",
            Self::Library(kind) => kind.as_str(),
        }
    }
}

/// Which statuses a command ends with when layermount itself fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStyle {
    /// 1, or 2 when the command line is wrong.
    Plain,
    /// As `docker run`, which leaves the small numbers to the program: 125, 126, 127.
    Run,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind: Kind::Library(kind), message: message.into(), causes: Vec::new(), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(ErrorKind::InvalidInput, message) }
    }

    /// A failed call of the standard library or the kernel.
    pub(crate) fn io(message: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            _ => ErrorKind::Os,
        };
        Self { causes: vec![error.to_string()], ..Self::new(kind, message) }
    }

    /// Says what was being done when this came up.
    pub(crate) fn context(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, cause);
        self
    }

    /// Replaces the hint.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a line to the hint.
    pub(crate) fn with_advice(self, advice: &str) -> Self {
        let hint =
            self.hint.as_ref().map_or_else(|| advice.to_owned(), |hint| format!("{}\n{advice}", hint.trim_end()));
        self.with_hint(hint)
    }

    pub(crate) fn is(&self, kind: ErrorKind) -> bool {
        self.kind == Kind::Library(kind)
    }

    pub(crate) fn exit_code(&self, style: ExitStyle) -> ExitCode {
        ExitCode::from(match (self.kind, style) {
            (Kind::BrokenPipe, _) => 0,
            (Kind::Library(ErrorKind::ProgramNotFound), ExitStyle::Run) => 127,
            (Kind::Library(ErrorKind::ProgramNotExecutable), ExitStyle::Run) => 126,
            (_, ExitStyle::Run) => 125,
            (Kind::Usage, ExitStyle::Plain) => 2,
            (_, ExitStyle::Plain) => 1,
        })
    }
}

impl From<layermount::Error> for Failure {
    fn from(error: layermount::Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        let denied = error.kind() == ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root();
        let hint = error.hint().or_else(|| denied.then(|| "run as root, or ask the owner for permission".to_owned()));
        Self { kind: Kind::Library(error.kind()), message: error.to_string(), causes, hint }
    }
}

/// A failure to write to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        let failure = Self::io("cannot write to standard output", error);
        if kind == io::ErrorKind::BrokenPipe { Self { kind: Kind::BrokenPipe, ..failure } } else { failure }
    }
}

/// `message: cause: cause`, for the places that have one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let code = |kind, style| format!("{:?}", Failure::new(kind, "x").exit_code(style));
        let number = |number: u8| format!("{:?}", ExitCode::from(number));
        assert_eq!(code(ErrorKind::ProgramNotFound, ExitStyle::Run), number(127));
        assert_eq!(code(ErrorKind::ProgramNotExecutable, ExitStyle::Run), number(126));
        assert_eq!(code(ErrorKind::ImageNotFound, ExitStyle::Run), number(125));
        assert_eq!(code(ErrorKind::ImageNotFound, ExitStyle::Plain), number(1));
        assert_eq!(format!("{:?}", Failure::usage("x").exit_code(ExitStyle::Plain)), number(2));
        assert_eq!(format!("{:?}", Failure::usage("x").exit_code(ExitStyle::Run)), number(125));
        let broken = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(format!("{:?}", broken.exit_code(ExitStyle::Run)), number(0));
    }

    #[test]
    fn the_librarys_errors_keep_their_chain() {
        let bad = "nonsense".parse::<layermount::Digest>().unwrap_err();
        let error = layermount::Error::new(ErrorKind::InvalidImage, bad);
        let failure = Failure::from(error);
        assert_eq!(failure.kind.as_str(), "invalid_image");
        assert_eq!(failure.to_string(), "\"nonsense\" is not a sha256 or sha512 digest");
    }
}
