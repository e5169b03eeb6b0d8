//! [`ImageName`]: a name with Docker's normalisation.
//!
//! Source of the grammar: distribution/reference, `reference.go` and `normalize.go` (the rules of `docker pull`).

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

use super::Reference;
use super::error::{ParseReferenceError, Reason};

const DEFAULT_REGISTRY: &str = "docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A whole, normalised name: registry, repository, and a tag or a digest or both.
///
/// `Display` prints all of it (`docker.io/library/ubuntu:latest`), [`ImageName::familiar`] what people write (`ubuntu:latest`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageName {
    /// A name from its parts, checked and normalised as if it had been typed. Without tag and digest, the tag is `latest`.
    pub fn new(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, ParseReferenceError> {
        Self::check(registry, repository, tag, digest).map_err(|reason| {
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            ParseReferenceError::new(&format!("{registry}/{repository}{tag}"), reason)
        })
    }

    fn check(registry: &str, repository: &str, tag: Option<&str>, digest: Option<Digest>) -> Result<Self, Reason> {
        // The index's old name, which Docker still takes for its default registry.
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        check_registry(registry)?;
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("{OFFICIAL}{repository}"),
            false => repository.to_owned(),
        };
        check_repository(&repository)?;
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }

    /// Takes a typed name apart. The digest comes off first, then the tag, which is behind the last `/`.
    pub(super) fn scan(text: &str) -> Result<Self, Reason> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse::<Digest>().map_err(|_| Reason::Digest(digest.to_owned()))?))
            }
            None => (text, None),
        };
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name.get(last..).and_then(|part| part.find(':')) {
            Some(colon) => {
                let (name, tag) = name.split_at(last + colon);
                (name, tag.strip_prefix(':'))
            }
            None => (name, None),
        };
        match name.split_once('/') {
            Some((first, rest)) if names_a_registry(first) => Self::check(first, rest, tag, digest),
            _ => Self::check(DEFAULT_REGISTRY, name, tag, digest),
        }
    }

    /// Host and port, `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry, `library/ubuntu`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Where there is a digest too, the digest decides.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The shortest spelling that means the same, as Docker prints it: `ubuntu:24.04`, `team/app:1`, `localhost:5000/app:1`.
    pub fn familiar(&self) -> String {
        let rest = self.rest();
        let path = match self.registry == DEFAULT_REGISTRY {
            true => {
                self.repository.strip_prefix(OFFICIAL).filter(|path| !path.contains('/')).unwrap_or(&self.repository)
            }
            false => return self.to_string(),
        };
        let short = format!("{path}{rest}");
        // `oci:1` would be a transport, `localhost/x` and `a.b/x` another registry.
        match short.parse::<Reference>() {
            Ok(Reference::Name(name)) if name == *self => short,
            _ => self.to_string(),
        }
    }

    /// The hexadecimal digits, where the name can also be the beginning of an image ID (`1a2b3c4`: seven digits or more,
    /// nothing but a repository). For sources that have no image of this name.
    pub fn as_id_prefix(&self) -> Option<&str> {
        let bare = self.registry == DEFAULT_REGISTRY && self.tag() == Some(DEFAULT_TAG) && self.digest.is_none();
        let word = self.repository.strip_prefix(OFFICIAL).filter(|_| bare)?;
        let hex = (7..=64).contains(&word.len()) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then_some(word)
    }

    fn rest(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

/// Docker's rule: what stands before the first `/` is a registry if it could not be a user's name on Docker Hub.
fn names_a_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), Reason> {
    const PART: &str = "registry";
    let bad = |found| Reason::Character { part: PART, found, text: registry.to_owned() };
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(|| bad('['))?;
            if let Some(found) = address.chars().find(|c| !c.is_ascii_hexdigit() && *c != ':') {
                return Err(bad(found));
            }
            match (address, rest.strip_prefix(':')) {
                ("", _) => return Err(Reason::Empty(PART)),
                (_, None) if !rest.is_empty() => return Err(bad(']')),
                (_, port) => (None, port),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Reason::Port(registry.to_owned()));
    }
    let Some(host) = host else { return Ok(()) };
    if registry.len() > MAX_REPOSITORY {
        return Err(Reason::TooLong { part: PART, length: registry.chars().count(), limit: MAX_REPOSITORY });
    }
    if host.is_empty() {
        return Err(Reason::Empty(PART));
    }
    for label in host.split('.') {
        if let Some(found) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(bad(found));
        }
        let separator = if label.is_empty() { '.' } else { '-' };
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
            return Err(Reason::Separator { part: PART, separator, text: registry.to_owned() });
        }
    }
    Ok(())
}

/// Components joined by `/`; each of lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn check_repository(repository: &str) -> Result<(), Reason> {
    const PART: &str = "name";
    let shown = repository.strip_prefix(OFFICIAL).unwrap_or(repository);
    if shown.is_empty() {
        return Err(Reason::Empty(PART));
    }
    if repository.len() > MAX_REPOSITORY {
        return Err(Reason::TooLong { part: PART, length: repository.chars().count(), limit: MAX_REPOSITORY });
    }
    for component in repository.split('/') {
        for found in component.chars() {
            match found {
                'a'..='z' | '0'..='9' | '.' | '_' | '-' => {}
                _ if found.is_uppercase() => {
                    return Err(Reason::UpperCase { part: PART, found, text: shown.to_owned() });
                }
                _ => return Err(Reason::Character { part: PART, found, text: shown.to_owned() }),
            }
        }
        let separator = |separator| Reason::Separator { part: PART, separator, text: shown.to_owned() };
        if component.is_empty() {
            return Err(separator('/'));
        }
        // What stands between runs of letters and digits; at both ends it must be nothing.
        let mut between = component.split(|c: char| c.is_ascii_alphanumeric()).peekable();
        let mut first = true;
        while let Some(run) = between.next() {
            let at_end = first || between.peek().is_none();
            first = false;
            let allowed = match run {
                "" => true,
                _ if at_end => false,
                "." | "_" | "__" => true,
                run => run.bytes().all(|b| b == b'-'),
            };
            if !allowed {
                return Err(separator(run.chars().next().unwrap_or('.')));
            }
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), Reason> {
    const PART: &str = "tag";
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_empty() {
        return Err(Reason::Empty(PART));
    }
    if let Some(found) = tag.chars().find(|&c| !word(c) && c != '.' && c != '-') {
        return Err(Reason::Character { part: PART, found, text: tag.to_owned() });
    }
    if let Some(separator) = tag.chars().next().filter(|&c| !word(c)) {
        return Err(Reason::Separator { part: PART, separator, text: tag.to_owned() });
    }
    if tag.len() > MAX_TAG {
        return Err(Reason::TooLong { part: PART, length: tag.len(), limit: MAX_TAG });
    }
    Ok(())
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.rest())
    }
}

impl FromStr for ImageName {
    type Err = ParseReferenceError;

    /// Takes every text for a name, also one that [`Reference`] would take for a transport or an image ID.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::scan(text).map_err(|reason| ParseReferenceError::new(text, reason))
    }
}
