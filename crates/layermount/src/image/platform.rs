//! Platforms: `os/arch[/variant]`, as Go names them.

use std::fmt;
use std::str::FromStr;

use crate::error::{ErrorKind, Fault};

/// An operating system and architecture, normalised to Go's names (`linux/amd64`, `linux/arm64`, `linux/arm/v7`).
///
/// Source of the rules: the OCI image specification, `image-index.md` ("Platform variants"), and containerd's normalisation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// A platform from its parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
        let (architecture, variant) = normalise(architecture, variant);
        Self { os, architecture, variant }
    }

    /// The platform that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// `amd64`, `arm64`…
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// `v7` for 32-bit arm and the like.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well an image for `self` runs where `wanted` is asked for: `None` not at all, else smaller is better.
    ///
    /// A lower 32-bit arm variant runs on a higher one, and a lower amd64 level on a higher one; nothing else is mixed.
    pub fn distance_to(&self, wanted: &Self) -> Option<u8> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        let level = |variant: Option<&str>, default: u8| variant.map_or(Some(default), level);
        let default = match self.architecture.as_str() {
            "arm" => 7,
            "arm64" => 8,
            _ => 1,
        };
        if self.variant == wanted.variant {
            return Some(0);
        }
        let (image, machine) = (level(self.variant(), default)?, level(wanted.variant(), default)?);
        machine.checked_sub(image)
    }
}

/// The level in `v3` or `v8.1`. Nothing else is one: what only begins so says nothing about machines, and may be anything.
fn level(variant: &str) -> Option<u8> {
    let numbers = variant.strip_prefix('v')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    numbers.split('.').all(is_number).then(|| numbers.split('.').next()?.parse().ok())?
}

fn normalise(architecture: String, variant: Option<String>) -> (String, Option<String>) {
    match (architecture.as_str(), variant.as_deref()) {
        ("i386", _) => ("386".into(), None),
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64".into(), None),
        ("x86_64" | "x86-64" | "amd64", _) => ("amd64".into(), variant),
        ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64".into(), None),
        ("aarch64" | "arm64", _) => ("arm64".into(), variant),
        ("armhf", _) => ("arm".into(), Some("v7".into())),
        ("armel", _) => ("arm".into(), Some("v6".into())),
        ("arm", None | Some("7")) => ("arm".into(), Some("v7".into())),
        ("arm", Some(number @ ("5" | "6" | "8"))) => ("arm".into(), Some(format!("v{number}"))),
        _ => (architecture, variant),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Not of the form `os/arch[/variant]`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not a platform of the form os/arch[/variant], such as linux/arm64 or linux/arm/v7")]
pub struct ParsePlatformError {
    text: String,
}

impl Fault for ParsePlatformError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let word =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        match parts.as_slice() {
            [os, architecture] if word(os) && word(architecture) => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if word(os) && word(architecture) && word(variant) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(ParsePlatformError { text: text.chars().take(80).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_normalised() {
        for (typed, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(typed).to_string(), normal);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/", "a/b/c/d", "linux/amd 64", "linux/\n"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lower_variants_run_on_higher_machines() {
        let machine = platform("linux/arm/v7");
        assert_eq!(platform("linux/arm/v7").distance_to(&machine), Some(0));
        assert_eq!(platform("linux/arm/v6").distance_to(&machine), Some(1));
        assert_eq!(platform("linux/arm/v8").distance_to(&machine), None);
        assert_eq!(platform("linux/amd64").distance_to(&machine), None);
        assert_eq!(platform("linux/amd64/v3").distance_to(&platform("linux/amd64")), None);
    }

    #[test]
    fn what_only_begins_like_a_level_is_none() {
        for variant in ["v1.x", "v1.2 x", "v1.", "v+1", "v1./../../x", "v1.\u{1b}[31m", "v", "1"] {
            let image = Platform::new("linux", "amd64", Some(variant));
            assert_eq!(image.distance_to(&platform("linux/amd64")), None, "{variant:?}");
        }
        assert_eq!(platform("linux/arm64/v8.1").distance_to(&platform("linux/arm64/v8.2")), Some(0));
    }
}
