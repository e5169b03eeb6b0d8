//! Images that were pulled into the store.

use std::path::PathBuf;

use crate::error::{ErrorKind, Fault, Result};
use crate::image::{Image, Platform};
use crate::reference::{ImageName, Reference};
use crate::store::{Store, StoredImage};

use super::Source;

/// The images of a [`Store`]; of the default one by default. The store is opened when it is asked, unless it is open already.
#[derive(Debug, Clone, Default)]
pub struct StoredImages(Place);

/// Which store.
#[derive(Debug, Clone, Default)]
enum Place {
    #[default]
    Default,
    At(PathBuf),
    Open(Store),
}

#[derive(Debug, thiserror::Error)]
enum StoredImagesError {
    #[error("no image of that name or ID was pulled for {platform}")]
    NotPulled { platform: Platform },
    #[error("{prefix} is the beginning of {count} image IDs")]
    Ambiguous { prefix: String, count: usize },
}

impl Fault for StoredImagesError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotPulled { .. } => ErrorKind::ImageNotFound,
            Self::Ambiguous { .. } => ErrorKind::InvalidInput,
        }
    }
}

impl StoredImages {
    /// The images of the store at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Place::At(path.into()))
    }

    /// The images of a store that is open.
    pub fn of(store: &Store) -> Self {
        Self(Place::Open(store.clone()))
    }

    fn store(&self) -> Result<Store> {
        match &self.0 {
            Place::Open(store) if store.exists() => Ok(store.clone()),
            // It may have been made since.
            _ => Store::open(self.path()?),
        }
    }

    fn path(&self) -> Result<PathBuf> {
        match &self.0 {
            Place::Default => Store::default_path(),
            Place::At(path) => Ok(path.clone()),
            Place::Open(store) => Ok(store.path().to_owned()),
        }
    }
}

impl Source for StoredImages {
    fn describe(&self) -> String {
        match self.path() {
            Ok(path) => format!("the store at {}", path.display()),
            Err(_) => "the store".to_owned(),
        }
    }

    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Name(_) | Reference::Id(_))
    }

    fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Image> {
        let store = self.store()?;
        let found = match reference {
            Reference::Name(name) => by_name(&store, name, platform)?,
            Reference::Id(id) => store.image_by_id(id)?,
            _ => None,
        };
        match found {
            Some(stored) if stored.image().platform().distance_to(platform).is_some() => Ok(stored.into_image()),
            _ => Err(StoredImagesError::NotPulled { platform: platform.clone() }.into()),
        }
    }

    fn names(&self) -> Vec<String> {
        let images = self.store().and_then(|store| store.images()).unwrap_or_default();
        images.iter().flat_map(|stored| stored.image().names().to_vec()).collect()
    }
}

fn by_name(store: &Store, name: &ImageName, platform: &Platform) -> Result<Option<StoredImage>> {
    if let Some(digest) = name.digest() {
        // The digest decides; the name before it is where it would be pulled from.
        return Ok(store.images()?.into_iter().find(|stored| stored.image().manifest_digest() == Some(digest)));
    }
    match store.image_named(&name.to_string(), platform)? {
        None => match compatible(store, &name.to_string(), platform)? {
            None => by_id_prefix(store, name.as_id_prefix(), platform),
            found => Ok(found),
        },
        found => Ok(found),
    }
}

/// An image of this name for a variant that `platform` can run. Only variants are worth reading every record for.
fn compatible(store: &Store, name: &str, platform: &Platform) -> Result<Option<StoredImage>> {
    if platform.variant().is_none() {
        return Ok(None);
    }
    let named = store.images()?.into_iter().filter(|stored| stored.image().names().iter().any(|own| own == name));
    let runnable = named.filter_map(|stored| Some((stored.image().platform().distance_to(platform)?, stored)));
    Ok(runnable.min_by_key(|(distance, _)| *distance).map(|(_, stored)| stored))
}

fn by_id_prefix(store: &Store, prefix: Option<&str>, platform: &Platform) -> Result<Option<StoredImage>> {
    let Some(prefix) = prefix else { return Ok(None) };
    let mut images = store.images()?;
    images.retain(|stored| stored.image().id().hex().starts_with(prefix) && stored.image().platform() == platform);
    match images.len() {
        0 | 1 => Ok(images.pop()),
        count => Err(StoredImagesError::Ambiguous { prefix: prefix.to_owned(), count }.into()),
    }
}
