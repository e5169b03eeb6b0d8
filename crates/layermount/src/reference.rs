//! References: what a person types to name an image.

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reference {}
