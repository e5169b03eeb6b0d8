//! [`Stdio`]: where a program's standard streams come from.

use std::os::fd::OwnedFd;

/// One of a program's standard streams.
#[derive(Debug)]
pub struct Stdio(pub(super) Stream);

#[derive(Debug)]
pub(super) enum Stream {
    Inherit,
    Null,
    Piped,
    File(OwnedFd),
}

impl Stdio {
    /// The calling process's own.
    pub fn inherit() -> Self {
        Self(Stream::Inherit)
    }

    /// The host's `/dev/null`.
    pub fn null() -> Self {
        Self(Stream::Null)
    }

    /// A pipe, whose other end is in the [`Child`](crate::Child). Not for [`Entered::exec`](crate::Entered::exec).
    pub fn piped() -> Self {
        Self(Stream::Piped)
    }
}

impl<F: Into<OwnedFd>> From<F> for Stdio {
    fn from(file: F) -> Self {
        Self(Stream::File(file.into()))
    }
}
