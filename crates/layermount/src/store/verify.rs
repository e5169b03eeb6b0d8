//! Comparing the store's layers with what was unpacked.
//!
//! Every regular file of a directory is compared with the [listing](crate::unpack::listing) that was made of it. Of an EROFS file,
//! the archive is compared with its diff ID, and the rest with a checksum; an index of an image is damaged, too, if a layer is that
//! it points into.
//!
//! What is found damaged is marked and then counts as absent, so that whoever needs it next makes it anew. The mark is a file
//! beside the tree: it appears at once or not at all, and whoever runs in the tree does not notice.

mod directory;
mod file;

pub(super) use file::{archive_of, file_checksum};

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::digest::DiffId;
use crate::error::Result;
use crate::mountinfo;

use super::entry::{Entry, Key, is_index_name};
use super::in_use::{Claim, claim_soon, is_mounted};
use super::root::{StoreRoot, names_in};
use super::shelf::{Shelf, ShelfKind};
use super::usage::{StoredLayer, stored_layer};
use directory::verify_directory;
use file::verify_file;

/// Who reads of a thousand damaged files in a layer needs no more of them.
const FINDINGS: usize = 1000;

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// What [`Store::verify`](crate::Store::verify) found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Layers that were read.
    pub layers: usize,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files that are closed to this user by their own mode or a directory's: of them, at most the size was compared.
    pub closed: u64,
    /// What is not as it was unpacked.
    pub damage: Vec<Damage>,
    /// Damaged layers that count as absent now, so that they are made anew where they are needed.
    pub marked: Vec<PathBuf>,
    /// Those of them that somebody uses. A directory can only be replaced when that has ended; of an EROFS file, the kernel keeps
    /// what is used.
    pub in_use: Vec<PathBuf>,
    /// Damaged layers that go on being used, because the store cannot be written to.
    pub unmarked: Vec<PathBuf>,
}

/// Something in a layer that is not as it was unpacked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Damage {
    /// Where the layer lies.
    pub layer: PathBuf,
    /// The file's path from the layer's root, escaped; empty when it is the layer itself or its records.
    pub path: String,
    /// The class of the damage.
    pub kind: DamageKind,
    /// What is wrong with it.
    pub what: String,
}

/// In which way something is not as it was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// A file is not there.
    Missing,
    /// A file was not in the layer.
    Extra,
    /// Something else than a regular file lies in the place of one.
    Type,
    /// A file is longer or shorter.
    Size,
    /// A file has the right size and another content.
    Content,
    /// A file or directory cannot be read.
    Unreadable,
    /// What the store knows of the layer is broken or lost, or an earlier `verify` found the layer damaged.
    Record,
    /// More than are reported one by one.
    More,
}

pub(super) fn verify(root: &StoreRoot, progress: &mut dyn FnMut(&StoredLayer)) -> Result<Verified> {
    let mut verified = Verified::default();
    for kind in ShelfKind::all(root)? {
        if let Some(shelf) = Shelf::open(root, kind)? {
            verify_shelf(&shelf, progress, &mut verified)?;
        }
    }
    Ok(verified)
}

fn verify_shelf(shelf: &Shelf, progress: &mut dyn FnMut(&StoredLayer), verified: &mut Verified) -> Result<()> {
    let mut names = names_in(shelf.directory(), shelf.path())?;
    names.sort_unstable();
    let mut marked_before = HashSet::new();
    for name in &names {
        if marked_before.contains(name.as_str()) {
            continue;
        }
        if let Some(damage) = shelf.damage(name)? {
            let (layer, kind) = (shelf.path().join(name), DamageKind::Record);
            verified.damage.push(Damage { layer, path: String::new(), kind, what: damage.to_string() });
            continue;
        }
        // Pruned meanwhile: then there is nothing to be said of it.
        let Some(entry) = shelf.entry_named(name)? else { continue };
        progress(&stored_layer(name.clone(), &entry));
        let findings = verify_entry(shelf, &entry, verified)?;
        verified.layers += usize::from(!is_index_name(name));
        if findings.damage.is_empty() {
            continue;
        }
        verified.damage.extend(findings.into_damage(entry.path()));
        // Indexes first: who finds one without a mark does not ask its layers.
        if !is_index_name(name) {
            for index in names.iter().filter(|index| is_index_name(index)) {
                if !marked_before.contains(index.as_str()) && mark_over(shelf, index, &entry, verified)? {
                    marked_before.insert(index.as_str());
                }
            }
        }
        mark(shelf, name, entry, verified)?;
    }
    Ok(())
}

/// Marks an index if it points into this damaged layer. Returns whether it does.
fn mark_over(shelf: &Shelf, index: &str, layer: &Entry, verified: &mut Verified) -> Result<bool> {
    let diff_id = &layer.record.diff_id;
    let Some(entry) = shelf.entry_named(index)?.filter(|entry| needs(entry, diff_id)) else { return Ok(false) };
    verified.damage.extend(lacking(diff_id, "damaged or missing").into_damage(entry.path()));
    mark(shelf, index, entry, verified)?;
    Ok(true)
}

/// Whether a layer is as it was unpacked, as far as its listing or its digest and checksum tell.
pub(super) fn is_whole(entry: &Entry) -> Result<bool> {
    let mut verified = Verified::default();
    let findings = match &entry.record.file {
        None => verify_directory(entry, &mut verified)?,
        Some(file) => verify_file(entry, file, &mut verified)?,
    };
    Ok(findings.damage.is_empty())
}

/// Marks a damaged layer, and finds out who goes on using it.
fn mark(shelf: &Shelf, name: &str, entry: Entry, verified: &mut Verified) -> Result<()> {
    let path = entry.path().clone();
    if let Err(error) = entry.mark_damaged() {
        if is_ours(error.errno()) {
            return Err(error.into());
        }
        verified.unmarked.push(path);
        return Ok(());
    }
    verified.marked.push(path.clone());
    // Our own lock must not be taken for somebody's.
    drop(entry);
    let used = match claim_soon(shelf, name)? {
        Claim::Used => true,
        Claim::Gone => false,
        Claim::Free(claimed) => is_mounted(&mountinfo::overlay_directories_in_use(), shelf, name, &claimed)?,
    };
    if used {
        verified.in_use.push(path);
    }
    Ok(())
}

/// Whether this process, or the machine, lacks what it takes to read on: that says nothing of the layer.
fn is_ours(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// What is wrong with one layer.
#[derive(Debug, Default)]
struct Findings {
    damage: Vec<(String, DamageKind, String)>,
    /// Findings that are not reported one by one.
    more: u64,
}

impl Findings {
    fn add(&mut self, path: impl Into<String>, kind: DamageKind, what: impl Into<String>) {
        if self.damage.len() < FINDINGS {
            self.damage.push((path.into(), kind, what.into()));
        } else {
            self.more += 1;
        }
    }

    fn into_damage(self, layer: &Path) -> impl Iterator<Item = Damage> {
        let more =
            (self.more > 0).then(|| (String::new(), DamageKind::More, format!("{} more are damaged", self.more)));
        let layer = layer.to_owned();
        (self.damage.into_iter().chain(more)).map(move |(path, kind, what)| Damage {
            layer: layer.clone(),
            path,
            kind,
            what,
        })
    }
}

fn verify_entry(shelf: &Shelf, entry: &Entry, verified: &mut Verified) -> Result<Findings> {
    let Some(file) = &entry.record.file else { return verify_directory(entry, verified) };
    let mut findings = verify_file(entry, file, verified)?;
    for device in &file.devices {
        let name = Key::Diff(device.diff_id.clone()).file_name();
        let layer = shelf.entry_named(&name)?;
        let length = layer.and_then(|layer| layer.record.file.map(|file| file.length));
        let what = match length {
            Some(length) if length == device.length => continue,
            Some(_) => "another file by now",
            None => "damaged or missing",
        };
        findings.damage.append(&mut lacking(&device.diff_id, what).damage);
    }
    Ok(findings)
}

/// Whether an index points into this layer.
fn needs(index: &Entry, diff_id: &DiffId) -> bool {
    index.record.file.iter().flat_map(|file| &file.devices).any(|device| &device.diff_id == diff_id)
}

/// What is wrong with an index of which this layer is a part.
fn lacking(diff_id: &DiffId, what: &str) -> Findings {
    let mut findings = Findings::default();
    findings.add("", DamageKind::Missing, format!("needs layer {diff_id}, which is {what}"));
    findings
}
