//! Images that were pulled, and the names that stand for them.
//!
//! A record is the image without its layers' content: the config as it was, and one descriptor a layer. Names are kept apart,
//! one small file each, so that looking one up reads two files however many images there are. A name's file is called after
//! the digest of name and platform, because names may be longer than file names; the same name may stand for an image of each
//! platform.

mod brief;

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::Digest;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::image::{Config, Content, Descriptor, Image, ImageParts, Platform};

use super::StoreError;
use super::durability::Durability;
use super::entry::{read_file, write_file};
use super::root::{Part, StoreRoot, names_in};
use super::stage::{self, Stage};
use brief::Brief;

/// An image that was pulled into the store.
#[derive(Debug, Clone)]
pub struct StoredImage {
    image: Image,
}

impl StoredImage {
    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The image, to be realized.
    pub fn into_image(self) -> Image {
        self.image
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ImageRecord {
    id: Digest,
    manifest_digest: Option<Digest>,
    names: Vec<String>,
    platform: String,
    /// The document, byte for byte.
    config: String,
    descriptors: Option<Vec<Descriptor>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NameRecord {
    name: String,
    platform: String,
    id: Digest,
    /// A [`Brief`], if it is one: other releases may write others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    brief: Option<Box<RawValue>>,
}

fn image_file(id: &Digest) -> String {
    format!("{}.json", id.hex())
}

fn name_file(name: &str, platform: &Platform) -> String {
    Digest::sha256(format!("{name} {platform}")).hex().to_owned()
}

pub(super) fn write(root: &StoreRoot, image: &Image) -> Result<()> {
    if matches!(image.content(), Content::Located(_)) {
        return Ok(());
    }
    // What cannot be read back would be no record, and the image not there.
    let _: Platform = image.platform().to_string().parse()?;
    stage::sweep(root)?;
    let record = ImageRecord {
        id: image.id().clone(),
        manifest_digest: image.manifest_digest().cloned(),
        names: image.names().to_vec(),
        platform: image.platform().to_string(),
        // JSON is UTF-8, so that nothing is lost.
        config: String::from_utf8_lossy(image.config().raw()).into_owned(),
        descriptors: image.layers().iter().map(|layer| layer.descriptor.clone()).collect(),
    };
    let text = replace(root, Part::Images, &image_file(image.id()), &record)?;
    let brief = Brief::of(&text).and_then(|brief| serde_json::value::to_raw_value(&brief).ok());
    for name in image.names() {
        let (platform, id) = (image.platform(), image.id().clone());
        let record = NameRecord { name: name.clone(), platform: platform.to_string(), id, brief: brief.clone() };
        replace(root, Part::Names, &name_file(name, platform), &record)?;
    }
    Ok(())
}

/// Puts a document in place of the one that was there; readers see the one or the other. Returns its text.
fn replace(root: &StoreRoot, part: Part, name: &str, document: &impl Serialize) -> Result<Vec<u8>> {
    let display = || root.path_of(part, name).display().to_string();
    let text = serde_json::to_vec(document).map_err(|source| StoreError::Malformed { file: display(), source })?;
    let directory = root.part_or_create(part)?;
    Stage::with(root, |stage| {
        write_file(stage.directory(), name, &text).syscall("write", display)?;
        if root.durability() == Durability::Power {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(stage.directory(), name, flags, Mode::empty()).syscall("openat", display)?;
            rustix::fs::fdatasync(&file).syscall("fdatasync", display)?;
        }
        rustix::fs::renameat(stage.directory(), name, &directory, name).syscall("renameat", display)?;
        if root.durability() == Durability::Power {
            rustix::fs::fsync(&directory).syscall("fsync", display)?;
        }
        Ok(())
    })?;
    Ok(text)
}

/// The image that a name stands for.
pub(super) fn by_name(root: &StoreRoot, name: &str, platform: &Platform) -> Result<Option<StoredImage>> {
    let Some(record) = read::<NameRecord>(root, Part::Names, &name_file(name, platform))? else { return Ok(None) };
    if record.name != name || record.platform != platform.to_string() {
        // Another name's file in the place of this one's.
        return Ok(None);
    }
    let Some(text) = read_text(root, Part::Images, &image_file(&record.id))? else { return Ok(None) };
    let brief = record.brief.and_then(|brief| serde_json::from_str::<Brief>(brief.get()).ok());
    let image = match brief {
        Some(brief) => brief.image((record.id, platform.clone()), text),
        None => Err(text),
    };
    Ok(match image {
        Ok(image) => Some(StoredImage { image }),
        Err(text) => image_of(&text),
    })
}

/// The image of this ID.
pub(super) fn by_id(root: &StoreRoot, id: &Digest) -> Result<Option<StoredImage>> {
    read_image(root, &image_file(id))
}

pub(super) fn list(root: &StoreRoot) -> Result<Vec<StoredImage>> {
    let Some(directory) = root.part(Part::Images)? else { return Ok(Vec::new()) };
    let mut images = Vec::new();
    for file in names_in(&directory, &root.path_of(Part::Images, ""))? {
        images.extend(read_image(root, &file)?);
    }
    // A name may stand for another image by now: every image shows the names that it still has.
    for stored in &mut images {
        let (id, platform) = (stored.image.id().clone(), stored.image.platform().clone());
        let mut kept = Vec::new();
        for name in stored.image.names() {
            let record = read::<NameRecord>(root, Part::Names, &name_file(name, &platform))?;
            if record.is_some_and(|record| record.id == id) {
                kept.push(name.clone());
            }
        }
        stored.image.set_names(kept);
    }
    images.sort_by(|a, b| (a.image.names(), a.image.id()).cmp(&(b.image.names(), b.image.id())));
    Ok(images)
}

pub(super) fn remove(root: &StoreRoot, stored: &StoredImage) -> Result<()> {
    let image = stored.image();
    for name in image.names() {
        let file = name_file(name, image.platform());
        let record = read::<NameRecord>(root, Part::Names, &file)?;
        if record.is_some_and(|record| &record.id == image.id()) {
            unlink(root, Part::Names, &file)?;
        }
    }
    unlink(root, Part::Images, &image_file(image.id()))
}

/// Removes records that cannot be read. Returns how many.
pub(super) fn remove_damaged(root: &StoreRoot) -> Result<usize> {
    let mut removed = 0;
    for part in [Part::Images, Part::Names] {
        let Some(directory) = root.part(part)? else { continue };
        for file in names_in(&directory, &root.path_of(part, ""))? {
            let readable = match part {
                Part::Images => read_image(root, &file)?.is_some(),
                _ => read::<NameRecord>(root, part, &file)?.is_some(),
            };
            if !readable {
                unlink(root, part, &file)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Forgets all images, also those whose records cannot be read. Returns how many there were.
pub(super) fn remove_all(root: &StoreRoot) -> Result<usize> {
    let mut removed = 0;
    for part in [Part::Names, Part::Images] {
        let Some(directory) = root.part(part)? else { continue };
        let files = names_in(&directory, &root.path_of(part, ""))?;
        removed = files.len();
        for file in files {
            unlink(root, part, &file)?;
        }
    }
    Ok(removed)
}

fn unlink(root: &StoreRoot, part: Part, name: &str) -> Result<()> {
    let Some(directory) = root.part(part)? else { return Ok(()) };
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        // A directory is no record, and nothing that keeps from forgetting one.
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(errno) => Err(SyscallError::new("unlinkat", root.path_of(part, name).display().to_string(), errno).into()),
    }
}

/// One record that nobody can make an image of must not keep all others from being listed and pruned: it is as good as none.
fn read_image(root: &StoreRoot, file: &str) -> Result<Option<StoredImage>> {
    Ok(read_text(root, Part::Images, file)?.and_then(|text| image_of(&text)))
}

fn image_of(text: &[u8]) -> Option<StoredImage> {
    StoredImage::try_from(serde_json::from_slice::<ImageRecord>(text).ok()?).ok()
}

fn read<T: serde::de::DeserializeOwned>(root: &StoreRoot, part: Part, name: &str) -> Result<Option<T>> {
    // What a power cut has left of a record is as good as none: pulling the image again replaces it.
    Ok(read_text(root, part, name)?.and_then(|text| serde_json::from_slice(&text).ok()))
}

fn read_text(root: &StoreRoot, part: Part, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(directory) = root.part(part)? else { return Ok(None) };
    let display = || root.path_of(part, name).display().to_string();
    match read_file(directory.as_fd(), name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => Ok(Some(result.syscall("read", display)?)),
    }
}

impl TryFrom<ImageRecord> for StoredImage {
    type Error = crate::Error;

    fn try_from(record: ImageRecord) -> Result<Self> {
        let image = Image::new(ImageParts {
            id: Some(record.id),
            manifest_digest: record.manifest_digest,
            names: record.names,
            platform: record.platform.parse()?,
            config: Config::parse(record.config)?,
            descriptors: record.descriptors,
            content: Content::Stored,
        })?;
        Ok(Self { image })
    }
}
