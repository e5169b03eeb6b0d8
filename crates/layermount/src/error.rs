//! The crate's one error type: opaque, matched through [`Error::kind`].
//!
//! Every subject of the crate (references, layers, the store, mounts…) has an error type of its own, private to the crate, that
//! remembers what was tried. [`Error`] carries any of them, so that their fields may change freely while programs go on
//! matching on [`ErrorKind`] and people go on reading `Display`, the [`source`](std::error::Error::source) chain and
//! [`Error::hint`].
//!
//! Messages are lower case, without a full stop, and never repeat their source: print the chain (`{error:#}` does).

mod syscall;

pub(crate) use syscall::{SyscallContext, SyscallError};

use std::fmt;

/// What the fallible calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in a class that a program can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is not a reference, platform, digest or option of the documented form.
    InvalidInput,
    /// No source that was asked holds the image.
    ImageNotFound,
    /// The image exists, but not for the platform that was asked for.
    PlatformNotFound,
    /// The image's own documents are malformed or disagree (manifest, index, config).
    InvalidImage,
    /// A blob or layer that the image names is not there.
    BlobNotFound,
    /// Content does not have the digest, diff ID or size that its descriptor states.
    DigestMismatch,
    /// A layer's archive is malformed, truncated or asks for something that is refused.
    InvalidLayer,
    /// A configured limit was reached (sizes, counts, expansion).
    LimitExceeded,
    /// This kernel, file system, engine or build cannot do what was asked.
    Unsupported,
    /// The caller may not do this (`EPERM`, `EACCES`).
    PermissionDenied,
    /// An engine's API could not be reached.
    EngineUnavailable,
    /// An engine's API answered with a failure.
    EngineFailed,
    /// Somebody else is using the thing exclusively (a persistent upper, a store entry).
    Busy,
    /// The process has more than one thread where only one is possible.
    MultiThreaded,
    /// The program is not in the image (a shell would exit with 127).
    ProgramNotFound,
    /// The program is there, but cannot be executed (a shell would exit with 126).
    ProgramNotExecutable,
    /// The image has no such user or group.
    UserNotFound,
    /// Something in the store cannot be read any more.
    StoreDamaged,
    /// The file system is full or a quota is reached.
    StorageFull,
    /// Any other failure of the operating system; see the source chain.
    Os,
}

impl ErrorKind {
    /// A name that stays the same, for logs that programs read: `image_not_found`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::ImageNotFound => "image_not_found",
            Self::PlatformNotFound => "platform_not_found",
            Self::InvalidImage => "invalid_image",
            Self::BlobNotFound => "blob_not_found",
            Self::DigestMismatch => "digest_mismatch",
            Self::InvalidLayer => "invalid_layer",
            Self::LimitExceeded => "limit_exceeded",
            Self::Unsupported => "unsupported",
            Self::PermissionDenied => "permission_denied",
            Self::EngineUnavailable => "engine_unavailable",
            Self::EngineFailed => "engine_failed",
            Self::Busy => "busy",
            Self::MultiThreaded => "multi_threaded",
            Self::ProgramNotFound => "program_not_found",
            Self::ProgramNotExecutable => "program_not_executable",
            Self::UserNotFound => "user_not_found",
            Self::StorageFull => "storage_full",
            Self::StoreDamaged => "store_damaged",
            Self::Os => "os",
        }
    }
}

/// An error of this crate. See [the module](self) for how it is built.
pub struct Error(Box<dyn Fault>);

/// What a subject's own error type answers so that [`Error`] can carry it.
pub(crate) trait Fault: std::error::Error + Send + Sync + 'static {
    fn kind(&self) -> ErrorKind;

    /// What a person could do about it, when that is known; lower case, no full stop.
    fn hint(&self) -> Option<String> {
        None
    }
}

impl Error {
    /// An error for an implementation of this crate's traits outside of it, such as a [`Source`](crate::Source).
    pub fn new(kind: ErrorKind, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(Foreign { kind, error: Box::new(error), hint: None }))
    }

    /// [`Error::new`] with a hint: what a person could do about it, lower case, no full stop.
    pub fn with_hint(
        kind: ErrorKind,
        error: impl std::error::Error + Send + Sync + 'static,
        hint: impl Into<String>,
    ) -> Self {
        Self(Box::new(Foreign { kind, error: Box::new(error), hint: Some(hint.into()) }))
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// What a person could do about it, when that is known.
    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// Says what was being done when this error came up: `context` is printed first, the error becomes its source.
    pub(crate) fn context(self, context: impl Into<String>) -> Self {
        Self(Box::new(Context { context: context.into(), error: self }))
    }
}

impl<F: Fault> From<F> for Error {
    fn from(fault: F) -> Self {
        Self(Box::new(fault))
    }
}

/// `{}` prints the outermost message, `{:#}` the whole chain joined by `: `.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        if f.alternate() {
            let mut next = self.0.source();
            while let Some(source) = next {
                write!(f, ": {source}")?;
                next = source.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{context}")]
struct Context {
    context: String,
    #[source]
    error: Error,
}

impl Fault for Context {
    fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    fn hint(&self) -> Option<String> {
        self.error.hint()
    }
}

/// Prints as the error it carries, and has that one's source.
#[derive(Debug)]
struct Foreign {
    kind: ErrorKind,
    error: Box<dyn std::error::Error + Send + Sync>,
    hint: Option<String>,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Foreign {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Fault for Foreign {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// Adds [`Error::context`] to any result whose error this crate can carry.
pub(crate) trait ResultExt<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.into().context(context()))
    }
}
