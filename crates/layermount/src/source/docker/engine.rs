//! The calls of the Docker Engine API that are needed, and what of their answers.
//!
//! Source: the Engine API reference, versions 1.24 to 1.52. Since 1.52, members without a value are left out; `null` has
//! always stood for empty lists.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::digest::{DiffId, Digest};
use crate::image::Platform;
use crate::image::document::null_is_default;

use super::endpoint::Endpoint;
use super::error::DockerError;
use super::http::Client;

type Result<T> = std::result::Result<T, DockerError>;

/// The newest version whose answers were looked at, and the oldest that any supported engine speaks.
const OURS: Version = Version(1, 52);
const OLDEST: Version = Version(1, 24);
const OURS_SPELLED: &str = "1.24 to 1.52";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// One engine, and the API version that both sides speak.
///
/// `GET /_ping` tells the engine's version in a header, in less than a millisecond; `GET /version` runs `runc
/// --version` for its answer, which takes fifteen.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    client: Client,
    version: Version,
    info: OnceLock<Info>,
}

/// Of `GET /info`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Info {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) driver: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) driver_status: Vec<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) docker_root_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) security_options: Vec<String>,
}

impl Info {
    /// Images are in containerd's content store, and what the driver is called is one of containerd's snapshotters.
    pub(super) fn has_containerd_store(&self) -> bool {
        self.status("driver-type").is_some_and(|kind| kind.starts_with("io.containerd.snapshotter"))
    }

    pub(super) fn status(&self, key: &str) -> Option<&str> {
        self.driver_status.iter().find_map(|pair| match pair.as_slice() {
            [name, value] if name == key => Some(value.as_str()),
            _ => None,
        })
    }

    /// `name=userns,…` and the like.
    pub(super) fn has_security_option(&self, name: &str) -> bool {
        self.security_options
            .iter()
            .any(|option| option.split(',').any(|part| part.strip_prefix("name=") == Some(name)))
    }
}

/// Of `GET /images/{name}/json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspect {
    pub(super) id: Digest,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) parent: String,
    #[serde(default)]
    pub(super) created: Option<String>,
    #[serde(default)]
    pub(super) author: Option<String>,
    /// As it stands: the image's configuration has the same members.
    #[serde(default)]
    pub(super) config: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) graph_driver: GraphDriver,
    #[serde(default, rename = "RootFS", deserialize_with = "null_is_default")]
    pub(super) root_fs: RootFs,
    /// Only where images are kept in containerd's content store.
    #[serde(default)]
    pub(super) descriptor: Option<TargetDescriptor>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct GraphDriver {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) data: GraphDriverData,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct GraphDriverData {
    pub(super) upper_dir: Option<String>,
    pub(super) lower_dir: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RootFs {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) layers: Vec<DiffId>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TargetDescriptor {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) media_type: String,
}

/// Of `GET /images/{name}/history`, newest first.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct HistoryStep {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) created_by: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) comment: String,
    pub(super) size: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
}

impl Engine {
    /// Asks for the engine's version, without a version in the path, and settles on the newest that both know. An engine that
    /// has dropped versions as old as ours says so itself, to the first question.
    pub(super) fn connect(endpoint: Endpoint) -> Result<Self> {
        Self::greet(Client::new(endpoint))
    }

    /// As [`Engine::connect`], over this client.
    pub(super) fn greet(client: Client) -> Result<Self> {
        let theirs = client.ping()?;
        match Version::parse(&theirs).map(|theirs| theirs.min(OURS)).filter(|version| *version >= OLDEST) {
            Some(version) => Ok(Self { client, version, info: OnceLock::new() }),
            None => Err(DockerError::Version { endpoint: client.endpoint().to_string(), theirs, ours: OURS_SPELLED }),
        }
    }

    /// An engine that nobody has spoken to.
    #[cfg(any(test, fuzzing))]
    pub(super) fn unasked() -> Self {
        Self { client: Client::new(Endpoint::Unix("/nonexistent".into())), version: OURS, info: OnceLock::new() }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// `path` with the version before it.
    pub(super) fn path(&self, path: &str) -> String {
        let Version(major, minor) = self.version;
        format!("/v{major}.{minor}{path}")
    }

    /// What does not change while an engine runs is asked for once.
    pub(super) fn info(&self) -> Result<&Info> {
        if let Some(info) = self.info.get() {
            return Ok(info);
        }
        let info = self.client.get(&self.path("/info"))?;
        Ok(self.info.get_or_init(|| info))
    }

    pub(super) fn inspect(&self, name: &str, platform: Option<&Platform>) -> Result<Inspect> {
        let query = platform.map(platform_query).unwrap_or_default();
        self.client.get(&self.path(&format!("/images/{}/json{query}", escape(name))))
    }

    pub(super) fn history(&self, name: &str) -> Result<Vec<HistoryStep>> {
        self.client.get(&self.path(&format!("/images/{}/history", escape(name))))
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        let images: Vec<Summary> = self.client.get(&self.path("/images/json"))?;
        // Untagged images are listed as `<none>:<none>` by old engines.
        Ok(images.into_iter().flat_map(|image| image.repo_tags).filter(|name| !name.contains('<')).collect())
    }
}

/// `?platform={…}`, the JSON form that came with API 1.48 (archives) and 1.49 (inspect).
pub(super) fn platform_query(platform: &Platform) -> String {
    let mut json = serde_json::json!({ "os": platform.os(), "architecture": platform.architecture() });
    if let (Some(variant), Some(object)) = (platform.variant(), json.as_object_mut()) {
        object.insert("variant".to_owned(), variant.into());
    }
    format!("?platform={}", escape(&json.to_string()))
}

/// Percent-encodes all that could mean something in a path or query. `/` and `:` stay, as the engine's router expects.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => {
                escaped.push(byte.into());
            }
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
