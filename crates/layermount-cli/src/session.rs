//! What every command about images begins with: the store, the search for the image, and its layers.

use std::path::{Path, PathBuf};
use std::time::Instant;

use layermount::store::{self, Durability, RealizeOptions};
use layermount::{
    Content, Docker, ErrorKind, IdMaps, Image, Lacking, LayerStack, Limits, Located, OciLayouts, Platform, Reference,
    RootfsDirectories, Sources, Store, StoredImages,
};

use crate::args::{Backing, Choice, Global, Making};
use crate::failure::{Failure, Result};
use crate::progress::Bars;
use crate::report::{Phase, Report};
use crate::text::counted;
use crate::users::{Entrance, Inside, sole_user};

/// The store and whom to tell, for one command.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) report: Report,
    pub(crate) store: Store,
    door: Door,
}

/// The way into a user namespace.
#[derive(Debug)]
enum Door {
    Ahead(Entrance),
    Behind(Inside),
}

/// Layers that can be mounted.
#[derive(Debug)]
pub(crate) struct Realized {
    pub(crate) stack: LayerStack,
    /// How many of them had to be unpacked for it.
    pub(crate) unpacked: usize,
}

impl Session {
    pub(crate) fn open(global: &Global) -> Result<Self> {
        Self::open_at(store_path(global)?, global)
    }

    /// With the store that [`store_path`] named, maybe before this process became another user.
    pub(crate) fn open_at(path: PathBuf, global: &Global) -> Result<Self> {
        let cannot_use = |error| Failure::from(error).context(format!("cannot use the store at {}", path.display()));
        let store = Store::open(&path).map_err(cannot_use)?;
        Ok(Self { report: Report::new(global), store, door: Door::Behind(Inside::default()) })
    }

    /// Whether what is made from now on has to survive a power cut.
    pub(crate) fn durable(mut self, durable: bool) -> Self {
        if durable {
            self.store = self.store.durability(Durability::Power);
        }
        self
    }

    /// Has layers made and mounted in a user namespace.
    pub(crate) fn entering(self, entrance: Entrance) -> Self {
        Self { door: Door::Ahead(entrance), ..self }
    }

    /// For a process that is there already.
    pub(crate) fn inside(self, inside: Inside) -> Self {
        Self { door: Door::Behind(inside), ..self }
    }

    fn enter(&mut self) -> Result<()> {
        let inside = match std::mem::replace(&mut self.door, Door::Behind(Inside::default())) {
            Door::Ahead(entrance) => entrance.enter()?,
            Door::Behind(inside) => inside,
        };
        self.door = Door::Behind(inside);
        Ok(())
    }

    /// Finds the image that somebody typed.
    pub(crate) fn resolve(&self, typed: &str, choice: &Choice) -> Result<Image> {
        let since = Instant::now();
        let search = || self.sources(choice)?.resolve(&typed.parse::<Reference>()?, &platform(choice));
        let image = search().map_err(|error| explain(typed, error))?;
        self.report.phase(Phase::Resolve, since, || describe(&image, &self.store));
        for note in image.notes() {
            self.report.detail(note);
        }
        Ok(image)
    }

    /// The very same image outside of the store.
    fn elsewhere(&self, image: &Image, typed: &str, choice: &Choice) -> Option<Image> {
        let sources = Sources::new(vec![Box::new(docker(choice).ok()?)]);
        let found = sources.resolve(&typed.parse().ok()?, &platform(choice)).ok()?;
        (found.id() == image.id()).then_some(found)
    }

    /// Bare names are searched in the store and then in Docker, which is asked only if it comes to that.
    fn sources(&self, choice: &Choice) -> layermount::Result<Sources> {
        let mut docker = docker(choice)?;
        if let Door::Ahead(entrance) = &self.door
            && let Some(maps) = entrance.maps()
        {
            docker = docker.id_maps(maps.clone());
        }
        Ok(Sources::new(vec![
            Box::new(StoredImages::of(&self.store)),
            Box::new(docker),
            Box::new(OciLayouts),
            Box::new(RootfsDirectories),
        ]))
    }

    /// Makes the layers of the image that somebody typed ready to be mounted.
    pub(crate) fn realize(&mut self, image: &Image, typed: &str, choice: &Choice, making: &Making) -> Result<Realized> {
        let since = Instant::now();
        self.enter()?;
        let bars = Bars::new(self.report);
        let limits = making.limits.iter().fold(Limits::default(), |limits, set| limits.with(set.limit, set.value));
        let options = RealizeOptions::default().backing(making.backing.into()).limits(limits).progress(&bars);
        let mut result = self.store.realize_with(image, &options);
        // A layer was lost, or found damaged. It can be made anew where the image is found elsewhere, too.
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::BlobNotFound)
            && matches!(image.content(), Content::Stored)
            && let Some(elsewhere) = self.elsewhere(image, typed, choice)
        {
            self.report.detail(&format!("a layer is not in the store any more; {}", describe(&elsewhere, &self.store)));
            result = self.store.realize_with(&elsewhere, &options);
        }
        let unpacked = bars.finish();
        let stack = result.map_err(|error| Failure::from(error).context("cannot make the image's layers ready"))?;
        self.report.phase(Phase::Layers, since, || match (image.layers().len(), unpacked) {
            (count, 0) => format!("{} ready", counted(count, "layer")),
            (count, unpacked) => format!("{} ready, {unpacked} unpacked now", counted(count, "layer")),
        });
        // Once: whoever uses the image later has been told.
        if unpacked > 0 {
            self.tell_lacking(stack.lacking());
        }
        Ok(Realized { stack, unpacked })
    }

    /// The IDs of the program, where they are not those of the process.
    pub(crate) fn kept_ids(&self) -> Option<IdMaps> {
        match &self.door {
            Door::Behind(inside) => inside.kept.clone(),
            Door::Ahead(_) => None,
        }
    }

    /// Says what the image has and this user cannot have.
    fn tell_lacking(&self, lacking: Lacking) {
        let counted = |count, what| counted(usize::try_from(count).unwrap_or(usize::MAX), what);
        if lacking.owners > 0 {
            let files = counted(lacking.owners, "file");
            let belong = if lacking.owners == 1 { "belongs" } else { "belong" };
            match &self.door {
                Door::Behind(Inside { single: Some(error), .. }) => {
                    let why = format!("{belong} to root here, as there is nobody else: {error:#}");
                    self.report.warn(&format!("{files} of other users {why}"));
                    if let Some(hint) = error.hint() {
                        self.report.hint(&hint);
                    }
                }
                _ => self.report.warn(&match sole_user() {
                    Some(0) => format!("{files} of other users {belong} to root here, as there is nobody else"),
                    Some(uid) => format!("{files} of other users {belong} to user {uid} here, as there is nobody else"),
                    None => format!("{files} of users that are not mapped {belong} to nobody here"),
                }),
            }
        }
        if lacking.devices > 0 {
            self.report.detail(&format!("{} left out: only root can make them", counted(lacking.devices, "device")));
        }
        if lacking.xattrs > 0 {
            let xattrs = counted(lacking.xattrs, "extended attribute");
            self.report.detail(&format!("{xattrs} left out: this file system, or this user, cannot have them"));
        }
    }
}

/// Where the store is, which for want of anything else depends on who asks.
pub(crate) fn store_path(global: &Global) -> Result<PathBuf> {
    let from_environment = || std::env::var_os("LAYERMOUNT_STORE").filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(global.store.clone().or_else(from_environment).map_or_else(Store::default_path, Ok)?)
}

fn platform(choice: &Choice) -> Platform {
    choice.platform.clone().unwrap_or_else(Platform::host)
}

/// The engine that is meant. Nothing is asked of it yet.
pub(crate) fn docker(choice: &Choice) -> layermount::Result<Docker> {
    choice.host.as_deref().map_or_else(|| Ok(Docker::default()), Docker::at)
}

impl From<Backing> for store::Backing {
    fn from(backing: Backing) -> Self {
        match backing {
            Backing::Auto => Self::Auto,
            Backing::Dir => Self::Directory,
            Backing::Erofs => Self::Erofs,
        }
    }
}

/// `sha256:… (linux/amd64, 4 layers), in the store at /var/lib/layermount`.
fn describe(image: &Image, store: &Store) -> String {
    let layers = counted(image.layers().len(), "layer");
    format!("{} ({}, {layers}), {}", image.id(), image.platform(), place(image.content(), store))
}

/// Where the image's layers are.
pub(crate) fn place(content: &Content, store: &Store) -> String {
    match content {
        Content::Blobs(blobs) => format!("from {}", blobs.describe()),
        Content::Archive(archive) => format!("from {}", archive.describe()),
        Content::Located(Located::Tree(directory)) => format!("in place at {}", directory.display()),
        Content::Located(Located::Layers { .. }) => "in place, where the engine keeps them".to_owned(),
        Content::Stored => format!("in the store at {}", store.path().display()),
        _ => "from elsewhere".to_owned(),
    }
}

/// Adds what is often meant by somebody who typed a path.
fn explain(typed: &str, error: layermount::Error) -> Failure {
    let not_found =
        [ErrorKind::InvalidInput, ErrorKind::ImageNotFound, ErrorKind::EngineUnavailable].contains(&error.kind());
    let names_a_place = matches!(typed.parse(), Ok(reference) if !matches!(reference, Reference::Name(_)));
    let failure = Failure::from(error);
    match path_hint(typed) {
        Some(hint) if not_found && !names_a_place => failure.with_hint(hint),
        _ => failure,
    }
}

/// What to write in order to mean the directory or file that is called like this.
fn path_hint(typed: &str) -> Option<String> {
    let is_layout = |directory: &Path| directory.join("oci-layout").exists() || directory.join("index.json").exists();
    let path = Path::new(typed);
    if path.is_dir() {
        return Some(match is_layout(path) {
            true => format!("{typed} is an OCI image layout: write oci:{typed}"),
            false => format!("{typed} is a directory: to use it as the whole tree, write rootfs:{typed}"),
        });
    }
    if path.is_file() {
        return Some(format!(
            "{typed} is a file: unpack it to a directory and write oci:DIR (or rootfs:DIR for a plain tree)"
        ));
    }
    let (directory, _) = typed.split_once([':', '@'])?;
    is_layout(Path::new(directory)).then(|| format!("{directory} is an OCI image layout: write oci:{typed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_a_transport_are_explained() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        assert!(path_hint(&path).unwrap().contains(&format!("rootfs:{path}")));
        tempfile::Builder::new().prefix("oci-layout").rand_bytes(0).tempfile_in(&directory).unwrap().keep().unwrap();
        assert!(path_hint(&path).unwrap().contains(&format!("oci:{path}")));
        assert!(path_hint(&format!("{path}:v1")).unwrap().ends_with(&format!("write oci:{path}:v1")));
        assert!(path_hint(&format!("{path}/oci-layout")).unwrap().contains("is a file"));
        assert_eq!(path_hint("ubuntu:24.04"), None);
    }
}
