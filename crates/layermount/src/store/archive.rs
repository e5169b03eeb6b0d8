//! Layers out of an archive of the whole image, as an engine streams it (`docker save`).
//!
//! Nothing of the archive is kept: each member that is a layer is unpacked as it passes, and published if its diff ID is one
//! that the image names. So it does not matter in which order the members come, whether they are called
//! `blobs/sha256/<hex>` (since Docker 25) or `<id>/layer.tar`, or whether the manifest comes last.

use std::collections::HashMap;
use std::io::Read;

use crate::digest::DiffId;
use crate::error::{Error, ErrorKind, Fault, Result, ResultExt};
use crate::image::{ImageArchive, Layer};

use super::StoreError;
use super::lock::KeyLock;
use super::realize::{LayerEvent, Work};
use super::shelf::Shelf;
use super::stage::Stage;

/// The unit of tar archives.
const BLOCK: usize = 512;

/// The stream itself is broken.
#[derive(Debug, thiserror::Error)]
#[error("the image archive of {place} is broken")]
struct ArchiveError {
    place: String,
    source: std::io::Error,
}

impl Fault for ArchiveError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::EngineFailed
    }
}

/// Makes whatever the image lacks. One process at a time for an image: the stream cannot be shared layer by layer.
pub(super) fn make(work: &Work<'_>, shelf: &Shelf, archive: &dyn ImageArchive) -> Result<()> {
    let Some(first) = work.missing(shelf)?.into_iter().next() else { return Ok(()) };
    let waiting = &mut || work.options.tell(first, LayerEvent::Waiting);
    let _lock = KeyLock::acquire(work.root, &format!("image-{}", work.image.id().hex()), waiting)?;
    let mut missing: HashMap<DiffId, &Layer> =
        work.missing(shelf)?.into_iter().map(|layer| (layer.diff_id.clone(), layer)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let broken = |source| Error::from(ArchiveError { place: archive.describe(), source });
    let mut stream = tar::Archive::new(archive.open()?);
    for member in stream.entries().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        if !member.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let mut start = Vec::with_capacity(BLOCK);
        (&mut member).take(BLOCK as u64).read_to_end(&mut start).map_err(broken)?;
        if !may_be_wanted(&name, &start, &missing) {
            continue;
        }
        let read = member.size();
        let mut member = Member { bytes: start.as_slice().chain(member), archive };
        let diff_id = Stage::with(work.root, |stage| {
            let member = &mut member as &mut dyn Read;
            work.unpack_and_publish(shelf, stage, (member, None), |found| missing.contains_key(found))
        })
        .context(|| format!("{name} of {}", archive.describe()))?;
        if let Some(layer) = missing.remove(&diff_id) {
            // Only now it is known which layer that was.
            work.options.tell(layer, LayerEvent::Unpacking { read, size: Some(read) });
            work.options.tell(layer, LayerEvent::Ready);
        }
        if missing.is_empty() {
            return Ok(());
        }
    }
    match missing.into_keys().next() {
        None => Ok(()),
        Some(diff_id) => {
            let (place, diff_id) = (archive.describe(), diff_id.to_string());
            Err(StoreError::NotInArchive { place, diff_id }.into())
        }
    }
}

/// A member's bytes. That the engine broke off should not be taken for a fault of the layer.
struct Member<'a, R> {
    bytes: R,
    archive: &'a dyn ImageArchive,
}

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read(buffer).map_err(|source| match source.kind() {
            std::io::ErrorKind::Interrupted => source,
            _ => std::io::Error::other(Error::from(ArchiveError { place: self.archive.describe(), source })),
        })
    }
}

/// Whether a member looks like a layer, from its name and first bytes, and is not known to be one that is there already.
fn may_be_wanted(name: &str, start: &[u8], missing: &HashMap<DiffId, &Layer>) -> bool {
    let compressed = start.starts_with(&[0x1f, 0x8b]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if compressed {
        return true;
    }
    // An uncompressed layer under its own digest says what it is.
    if let Some(hex) = name.strip_prefix("blobs/sha256/")
        && let Ok(diff_id) = format!("sha256:{hex}").parse::<DiffId>()
    {
        return missing.contains_key(&diff_id);
    }
    start.get(..BLOCK).is_some_and(|block| is_tar_header(block) || block.iter().all(|&byte| byte == 0))
}

fn is_tar_header(block: &[u8]) -> bool {
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 =
        block.iter().enumerate().map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
    header.cksum().is_ok_and(|stated| stated == sum)
}
