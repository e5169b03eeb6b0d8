//! Why a text is not a reference: the part that is wrong, and what would be right.

use crate::error::{ErrorKind, Fault};

/// Not a reference. The message quotes the part that is wrong; [`Error::hint`](crate::Error::hint) says what would be right.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not an image reference: {reason}")]
pub struct ParseReferenceError {
    text: String,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason {
    #[error("it has no {0}")]
    Empty(&'static str),
    #[error("the {part} {text:?} has an upper case letter, {found:?}")]
    UpperCase { part: &'static str, found: char, text: String },
    #[error("the {part} {text:?} cannot contain {found:?}")]
    Character { part: &'static str, found: char, text: String },
    #[error("the {part} {text:?} cannot begin with, end with or double a separator such as {separator:?}")]
    Separator { part: &'static str, separator: char, text: String },
    #[error("the {part} has {length} characters, and may have {limit}")]
    TooLong { part: &'static str, length: usize, limit: usize },
    #[error("the port in the registry {0:?} is not a number")]
    Port(String),
    #[error("{0:?} is not a sha256 or sha512 digest")]
    Digest(String),
    #[error("an image ID has 64 hexadecimal digits in lower case after \"sha256:\"")]
    ImageId,
    #[error("an image in a layout is chosen by name or by digest, not by both")]
    NameAndDigest,
    #[error("{0:?} is not supported yet")]
    Transport(String),
}

impl ParseReferenceError {
    /// What is not a reference may be anything, also a whole file: only its beginning is kept for the message.
    pub(super) fn new(text: &str, reason: Reason) -> Self {
        Self { text: shorten(text), reason: reason.shortened() }
    }
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl Reason {
    fn shortened(mut self) -> Self {
        match &mut self {
            Self::UpperCase { text, .. } | Self::Character { text, .. } | Self::Separator { text, .. } => {
                *text = shorten(text);
            }
            Self::Port(text) | Self::Digest(text) => *text = shorten(text),
            _ => {}
        }
        self
    }
}

impl Fault for ParseReferenceError {
    fn kind(&self) -> ErrorKind {
        match self.reason {
            Reason::Transport(_) => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match &self.reason {
            _ if self.text.starts_with(['/', '.', '~']) => {
                Some("a directory is written oci:DIR (an OCI layout) or rootfs:DIR (a whole tree)".to_owned())
            }
            // Behind the upper case letter, the text may hold anything.
            Reason::UpperCase { .. } => {
                Some(format!("names are lower case: {}", self.text.to_lowercase().escape_debug()))
            }
            Reason::Transport(word) if word == "docker://" || word.starts_with("http") => Some(
                "images are not fetched from registries yet: use 'docker pull', or 'skopeo copy docker://NAME oci:DIR:NAME', \
                 and then NAME or oci:DIR:NAME"
                    .to_owned(),
            ),
            Reason::Transport(word) => Some(format!(
                "supported are NAME, oci:DIR[:NAME], docker-daemon:NAME and rootfs:DIR; 'skopeo copy {word}... oci:DIR:NAME' \
                 converts"
            )),
            Reason::Empty(_) => Some("write NAME[:TAG], oci:DIR[:NAME], docker-daemon:NAME or rootfs:DIR".to_owned()),
            _ => None,
        }
    }
}
