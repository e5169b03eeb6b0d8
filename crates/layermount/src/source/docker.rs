//! Images that a Docker Engine holds.
//!
//! Where the engine keeps layers as directories that overlayfs can take, they are used where they lie: nothing is copied. In
//! every other case the engine streams the image (`GET /images/{id}/get`), and a note of the image says why.
//!
//! An engine does not know that its directories are in use here. When it deletes the image, it removes the files one by one:
//! those that are open stay readable, the others are gone from the mounted tree too. [`Docker::pin`] prevents the deletion.
//!
//! The image ID is what the engine prints: the config's digest with graph drivers, the manifest's or index's digest with
//! containerd's image store.

mod config;
mod endpoint;
mod engine;
mod error;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod http;
mod locate;
mod pin;
mod rootless;

pub use pin::Pin;

use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::caller::Caller;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::{Config, Content, Image, ImageArchive, ImageParts, OverlayXattrs, Platform};
use crate::reference::{DaemonImage, ImageName, Reference};
use crate::userns::IdMaps;

use super::{EngineFacts, PlatformNotFound, Source};

use endpoint::{Endpoint, Surroundings};
use engine::{Engine, Inspect, Version};
use error::DockerError;
use http::Client;
use locate::Placement;

/// Since when an archive and an inspection can be asked for by platform.
const ARCHIVE_BY_PLATFORM: Version = Version(1, 48);
const INSPECT_BY_PLATFORM: Version = Version(1, 49);

/// No classic build has more steps.
const MAX_PARENTS: usize = 1000;

/// A Docker Engine. Nothing is asked of it before the first image is.
#[derive(Debug, Default)]
pub struct Docker {
    host: Option<Endpoint>,
    maps: Option<IdMaps>,
    engine: OnceLock<Engine>,
}

impl Docker {
    /// The engine at `host`, spelled as for `docker --host`: `unix:///path` or `tcp://host:port`.
    ///
    /// [`Docker::default`] is the one that `docker` would talk to: `DOCKER_HOST`, the current context, or the usual sockets.
    pub fn at(host: &str) -> Result<Self> {
        Ok(Self { host: Some(host.parse()?), maps: None, engine: OnceLock::new() })
    }

    /// Says through which ID maps the layers will be mounted, for a process that is going to
    /// [enter](crate::UserNamespace::enter) a user namespace: where a rootless engine has the same, its layers are used in place.
    #[must_use]
    pub fn id_maps(mut self, maps: IdMaps) -> Self {
        self.maps = Some(maps);
        self
    }

    /// Keeps the engine from deleting `image` until the pin is released.
    ///
    /// A container that is never started holds the image. Pins of processes that have ended are removed on this occasion.
    pub fn pin(&self, image: &Image) -> Result<Pin> {
        Pin::create(self.engine()?, image.id())
    }

    /// The chain of images that `image` was built on, the nearest first, as the classic builder recorded it.
    ///
    /// Pulled images, and those of BuildKit, have none. The chain ends where an image of it was deleted.
    pub fn parents(&self, image: &Image) -> Result<Vec<Digest>> {
        let engine = self.engine()?;
        let mut parents: Vec<Digest> = Vec::new();
        let mut next = image.parent().cloned();
        while let Some(parent) = next.take() {
            next = match engine.inspect(&parent.to_string(), None) {
                Ok(inspect) if parents.len() < MAX_PARENTS => inspect.parent.parse().ok(),
                Ok(_) => None,
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
            parents.push(parent);
        }
        Ok(parents)
    }

    /// Asks the engine what it is, and does not wait for long. Nothing where there is none at any of the usual places.
    pub(crate) fn look(&self, patience: Duration) -> Result<Option<EngineFacts>> {
        let endpoint = match self.endpoint() {
            Err(DockerError::NoSocket { .. }) => return Ok(None),
            endpoint => endpoint?,
        };
        let engine = Engine::greet(Client::with_patience(endpoint, patience, patience))?;
        let info = engine.info()?;
        let mut storage = if info.driver.is_empty() { "unknown".to_owned() } else { info.driver.clone() };
        if info.has_containerd_store() {
            storage = format!("{storage} of containerd's image store");
        }
        Ok(Some(EngineFacts {
            endpoint: engine.endpoint().to_string(),
            api_version: engine.version().to_string(),
            storage,
        }))
    }

    fn endpoint(&self) -> Result<Endpoint, DockerError> {
        match &self.host {
            Some(host) => Ok(host.clone()),
            None => Endpoint::find(&Surroundings::real()),
        }
    }

    fn engine(&self) -> Result<&Engine, DockerError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::connect(self.endpoint()?)?;
        Ok(self.engine.get_or_init(|| engine))
    }

    fn resolve_for(&self, reference: &Reference, wanted: &Platform, readable: OverlayXattrs) -> Result<Image> {
        let engine = self.engine()?;
        let inspect = match reference {
            Reference::Name(name) | Reference::DockerDaemon(DaemonImage::Name(name)) => find(engine, name)?,
            Reference::Id(id) | Reference::DockerDaemon(DaemonImage::Id(id)) => inspect(engine, &id.to_string())?,
            _ => return Err(super::not_mine(self, reference)),
        };
        let inspect = for_platform(engine, inspect, wanted)?;
        let local = matches!(engine.endpoint(), Endpoint::Unix(_));
        let shares_ids = || rootless::shares_ids(engine.endpoint(), self.maps.as_ref());
        let placement = locate::place(&inspect, local, readable, &shares_ids, || engine.info().cloned())?;
        let history = engine.history(&inspect.id.to_string())?;
        let document = config::document(&inspect, &history).map_err(|source| DockerError::Malformed {
            endpoint: engine.endpoint().to_string(),
            path: format!("/images/{}/json", inspect.id),
            source,
        })?;
        image(engine, &inspect, placement, Config::parse(document)?, wanted)
    }
}

fn inspect(engine: &Engine, name: &str) -> Result<Inspect, DockerError> {
    engine.inspect(name, None).map_err(|error| match error {
        error if error.is_not_found() => DockerError::NoSuchImage { name: name.to_owned() },
        error => error,
    })
}

/// By name; then, where the name may be the beginning of an ID, by that.
fn find(engine: &Engine, name: &ImageName) -> Result<Inspect, DockerError> {
    let by_name = match (name.digest(), name.tag()) {
        (Some(digest), _) => format!("{}/{}@{digest}", name.registry(), name.repository()),
        (None, _) => name.to_string(),
    };
    match (inspect(engine, &by_name), name.as_id_prefix()) {
        (Err(error), Some(prefix)) if error.is_not_found() => {
            // The error speaks of the name, as it was typed.
            inspect(engine, prefix).map_err(|second| if second.is_not_found() { error } else { second })
        }
        (found, _) => found,
    }
}

/// An engine with containerd's store may hold an image for several platforms, and speaks of the host's unless asked.
fn for_platform(engine: &Engine, found: Inspect, wanted: &Platform) -> Result<Inspect> {
    let Some(platform) = platform(&found) else { return Ok(found) };
    if platform.distance_to(wanted).is_some() {
        return Ok(found);
    }
    let missing = || PlatformNotFound::new(describe(engine.endpoint()), wanted, [platform.clone()]);
    if found.descriptor.is_none() || engine.version() < INSPECT_BY_PLATFORM {
        return Err(missing().into());
    }
    match engine.inspect(&found.id.to_string(), Some(wanted)) {
        Ok(inspect) => Ok(inspect),
        Err(error) if error.is_not_found() => Err(missing().into()),
        Err(error) => Err(error.into()),
    }
}

fn platform(inspect: &Inspect) -> Option<Platform> {
    let Inspect { os, architecture, variant, .. } = inspect;
    (!os.is_empty() && !architecture.is_empty()).then(|| Platform::new(os, architecture, variant.as_deref()))
}

fn image(engine: &Engine, inspect: &Inspect, placement: Placement, config: Config, wanted: &Platform) -> Result<Image> {
    let platform = platform(inspect).unwrap_or_else(|| wanted.clone());
    let (content, note) = match placement {
        Placement::InPlace(located) => (Content::Located(located), None),
        Placement::Streamed { reason } => {
            let archive = EngineArchive::new(engine, inspect, &platform);
            (
                Content::Archive(Arc::new(archive)),
                Some(format!("streamed from {}: {reason}", describe(engine.endpoint()))),
            )
        }
    };
    let names = inspect.repo_tags.iter().filter_map(|name| name.parse::<ImageName>().ok());
    let image = Image::new(ImageParts {
        id: Some(inspect.id.clone()),
        manifest_digest: inspect.descriptor.is_some().then(|| inspect.id.clone()),
        names: names.map(|name| name.to_string()).collect(),
        platform,
        config,
        descriptors: None,
        content,
    })?
    .with_parent(inspect.parent.parse().ok());
    Ok(match note {
        Some(note) => image.with_note(note),
        None => image,
    })
}

fn describe(endpoint: &Endpoint) -> String {
    format!("Docker at {endpoint}")
}

impl Source for Docker {
    fn describe(&self) -> String {
        match (self.engine.get().map(Engine::endpoint), &self.host) {
            (Some(endpoint), _) | (None, Some(endpoint)) => describe(endpoint),
            (None, None) => "Docker".to_owned(),
        }
    }

    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Name(_) | Reference::Id(_) | Reference::DockerDaemon(_))
    }

    fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Image> {
        self.resolve_for(reference, platform, Caller::current().overlay_xattrs())
    }

    fn names(&self) -> Vec<String> {
        // Only asked of an engine that has answered before: this is for a better message.
        let names = self.engine.get().and_then(|engine| engine.names().ok()).unwrap_or_default();
        names.iter().filter_map(|name| name.parse::<ImageName>().ok()).map(|name| name.to_string()).collect()
    }
}

/// `GET /images/{id}/get`. By ID, because a tag may have moved since the image was looked at.
#[derive(Debug)]
struct EngineArchive {
    engine: Engine,
    path: String,
}

impl EngineArchive {
    fn new(engine: &Engine, inspect: &Inspect, platform: &Platform) -> Self {
        let is_index = inspect.descriptor.as_ref().is_some_and(|target| {
            target.media_type.contains("image.index") || target.media_type.contains("manifest.list")
        });
        let query = match is_index && engine.version() >= ARCHIVE_BY_PLATFORM {
            true => engine::platform_query(platform),
            false => String::new(),
        };
        Self { engine: engine.clone(), path: engine.path(&format!("/images/{}/get{query}", inspect.id)) }
    }
}

impl ImageArchive for EngineArchive {
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(self.engine.client().stream(&self.path)?)
    }

    fn describe(&self) -> String {
        describe(self.engine.endpoint())
    }
}

#[cfg(test)]
mod tests;
