//! Digests, diff IDs and chain IDs.
//!
//! Source of the rules: the OCI image specification, `descriptor.md` ("Digests") and `config.md` ("Layer DiffID",
//! "Layer ChainID").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{ErrorKind, Fault};

/// A content digest: `sha256:` or `sha512:` followed by lower-case hexadecimal.
///
/// The specification registers both; anything else cannot be verified here and is refused when it is parsed. Because of
/// that, [`Digest::hex`] is always safe as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Which hash function a [`Digest`] uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, `sha256`.
    Sha256,
    /// SHA-512, `sha512`.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon of a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: impl AsRef<[u8]>) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes.as_ref());
        hasher.finish()
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal part, lower case.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve hexadecimal digits, as engines print image IDs.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

/// Not a digest that can be verified.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not a sha256 or sha512 digest")]
pub struct ParseDigestError {
    text: String,
}

impl Fault for ParseDigestError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = match text.split_once(':') {
            Some(("sha256", hex)) if hex.len() == 64 => (Algorithm::Sha256, hex),
            Some(("sha512", hex)) if hex.len() == 128 => (Algorithm::Sha512, hex),
            _ => return Err(ParseDigestError { text: text.chars().take(160).collect() }),
        };
        // Upper case is refused as the specification says: one content has one name.
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseDigestError { text: text.to_owned() });
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

/// The specification's type admits any registered or unregistered algorithm; this one only what can be verified.
impl TryFrom<&oci_spec::image::Digest> for Digest {
    type Error = ParseDigestError;

    fn try_from(digest: &oci_spec::image::Digest) -> Result<Self, Self::Error> {
        digest.as_ref().parse()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] over bytes as they pass.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (algorithm, hex) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hex::encode(hasher.finalize())),
            Self::Sha512(hasher) => (Algorithm::Sha512, hex::encode(hasher.finalize())),
        };
        Digest { algorithm, hex: hex.into() }
    }
}

/// The digest of a layer's uncompressed tar archive.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub(crate) Digest);

/// The identity of a stack of layers: a layer and everything below it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub(crate) Digest);

impl ChainId {
    /// The chain ID of `diff_id` on top of `parent`; of a base layer when `parent` is `None`.
    ///
    /// `ChainID(L₀) = DiffID(L₀)`, `ChainID(L₀|…|Lₙ) = SHA256(ChainID(L₀|…|Lₙ₋₁) + " " + DiffID(Lₙ))`.
    pub fn push(parent: Option<&Self>, diff_id: &DiffId) -> Self {
        match parent {
            None => Self(diff_id.0.clone()),
            Some(parent) => Self(Digest::sha256(format!("{} {}", parent.0, diff_id.0))),
        }
    }

    /// The digest itself.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

macro_rules! prints_as_digest {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

prints_as_digest!(DiffId, ChainId);

impl DiffId {
    /// The digest itself.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn sha256_of_nothing() {
        assert_eq!(Digest::sha256("").to_string(), EMPTY);
    }

    #[test]
    fn only_canonical_digests_parse() {
        assert!(EMPTY.parse::<Digest>().is_ok());
        for bad in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &EMPTY[..EMPTY.len() - 1],
            &EMPTY.to_uppercase(),
            &format!("sha256:{}", EMPTY[7..].to_uppercase()),
            &format!("{EMPTY}\n"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn chain_id_follows_the_specification() {
        let diff: DiffId = EMPTY.parse().unwrap();
        let base = ChainId::push(None, &diff);
        assert_eq!(base.0, diff.0);
        let second = ChainId::push(Some(&base), &diff);
        assert_eq!(second.0, Digest::sha256(format!("{EMPTY} {EMPTY}")));
    }
}
