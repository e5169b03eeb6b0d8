//! What an archive says, by path: out of the fold, with nothing of what makes EROFS images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use super::super::memory::range_of;
use super::super::seen::data_of;
use crate::erofs::Packed;
use crate::erofs::listing::{Listing, Shown};
use crate::erofs::reader::{Extent, Kind as ShownKind, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::image::OverlayXattrs;
use crate::layer::{
    Archive, Attributes, Entry, Fold, Kind, LayerError, LayerLimits, NodeId, Put, Region, Verdict, judge,
};

/// Content is compared as a whole up to this length.
const WHOLE: u64 = 1 << 20;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// The layer, with its marks for those below.
    Layer,
    /// What the layer alone comes to.
    Image,
}

#[derive(Debug)]
pub(super) struct Said {
    entries: Vec<(Entry, Vec<u8>)>,
    /// All but the root.
    things: BTreeMap<Vec<u8>, Thing>,
    root: Option<Attributes>,
    opaque_root: bool,
    stands_alone: bool,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    Directory {
        attributes: Option<Attributes>,
        opaque: bool,
        only_whiteouts: bool,
    },
    /// Which entry made the inode.
    Leaf(usize),
    Whiteout,
    /// A hard link into lower layers.
    Below,
}

impl Said {
    pub(super) fn read(archive: &[u8], limits: &LayerLimits) -> Result<Self> {
        let mut archive = Archive::new(archive, limits);
        let mut fold = Fold::new(limits);
        let mut entries = Vec::new();
        let mut leaves: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut bytes = 0;
        while let Some(entry) = archive.next()? {
            let step = fold.add(&entry).map_err(|reason| LayerError::entry(&entry.name, reason))?;
            match step.map(|step| step.put) {
                Some(Put::Leaf(node)) => {
                    leaves.insert(node, entries.len());
                    if let Kind::File { size, sparse } = &entry.kind {
                        let data = |regions: &Vec<_>| regions.iter().map(|region: &Region| region.length).sum();
                        bytes += sparse.as_ref().map_or(*size, data);
                    }
                }
                Some(Put::Link { node, target }) => {
                    leaves.insert(node, leaves[&target]);
                }
                Some(Put::Directory(_) | Put::Nothing { .. }) | None => {}
            }
            entries.push((entry, data_of(&mut archive)?));
        }
        let meaning = fold.finish()?;
        let path = |node: NodeId| fold.path(node).join(&b'/');
        let implied: BTreeMap<NodeId, bool> = meaning.implied.iter().copied().collect();
        let mut things = BTreeMap::new();
        for end in &meaning.directories {
            let only_whiteouts = implied.get(&end.node).copied().unwrap_or_default();
            let attributes = fold.attributes(end.node).cloned();
            things.insert(path(end.node), Thing::Directory { attributes, opaque: end.opaque, only_whiteouts });
        }
        let leaves = leaves.iter().filter(|(node, _)| fold.holds(**node));
        things.extend(leaves.map(|(node, entry)| (path(*node), Thing::Leaf(*entry))));
        things.extend(meaning.whiteouts.iter().map(|node| (path(*node), Thing::Whiteout)));
        things.extend(meaning.links.iter().map(|(node, _)| (path(*node), Thing::Below)));
        let stands_alone = implied.is_empty() && meaning.links.is_empty();
        Ok(Self { entries, things, root: meaning.root, opaque_root: meaning.opaque_root, stands_alone, bytes })
    }

    pub(super) fn stands_alone(&self) -> bool {
        self.stands_alone
    }

    pub(super) fn has_links_below(&self) -> bool {
        self.things.values().any(|thing| *thing == Thing::Below)
    }

    /// Whether one of the reasons that the fold does not know can be this archive's.
    pub(super) fn may_be_refused(&self, error: &Error) -> bool {
        let mut of_entries = self.entries.iter().map(|(entry, _)| entry);
        let has =
            |entry: &Entry, prefix: &[u8]| entry.attributes.xattrs.iter().any(|(name, _)| name.starts_with(prefix));
        let text = format!("{error:#}");
        match error.kind() {
            ErrorKind::InvalidLayer if text.ends_with("its ACL is malformed") => {
                of_entries.any(|entry| has(entry, b"system.posix_acl_"))
            }
            ErrorKind::InvalidLayer if text.ends_with("its security.capability is malformed") => {
                of_entries.any(|entry| has(entry, b"security.capability"))
            }
            ErrorKind::Unsupported => of_entries.any(is_beyond_erofs),
            ErrorKind::LimitExceeded => of_entries.any(|entry| {
                matches!(entry.kind, Kind::File { sparse: Some(_), .. }) || !entry.attributes.xattrs.is_empty()
            }),
            _ => false,
        }
    }

    pub(super) fn assert_counts(&self, packed: &Packed) {
        assert_eq!(packed.stands_alone(), self.stands_alone);
        assert_eq!((packed.facts.entries, packed.facts.bytes), (self.entries.len() as u64, self.bytes));
        assert_eq!((&packed.facts.root, packed.facts.opaque_root), (&self.root, self.opaque_root));
    }

    /// Compares with what an image shows, whose content lies in `files`.
    pub(super) fn assert_shown(&self, found: &Listing, shows: Shows, files: &[&File]) {
        let is_shown = |thing: &Thing| match thing {
            Thing::Below => false,
            Thing::Whiteout | Thing::Directory { only_whiteouts: true, .. } => shows == Shows::Layer,
            Thing::Directory { .. } | Thing::Leaf(_) => true,
        };
        let things: BTreeMap<&[u8], &Thing> = (self.things.iter())
            .filter(|(_, thing)| is_shown(thing))
            .map(|(path, thing)| (path.as_slice(), thing))
            .collect();
        let root = Thing::Directory { attributes: self.root.clone(), opaque: false, only_whiteouts: false };
        let wanted: Vec<_> =
            std::iter::once((&b""[..], &root)).chain(things.iter().map(|(path, thing)| (*path, *thing))).collect();
        let paths: Vec<_> = wanted.iter().map(|(path, _)| *path).collect();
        assert_eq!(found.keys().map(Vec::as_slice).collect::<Vec<_>>(), paths, "other names");

        let mark_holders: BTreeSet<&[u8]> =
            (things.iter()).filter(|(_, thing)| ***thing == Thing::Whiteout).map(|(path, _)| parent(path)).collect();
        let mut inodes: BTreeMap<Option<usize>, &[u8]> = BTreeMap::new();
        for (path, thing) in wanted {
            let shown = &found[path];
            match thing {
                Thing::Directory { attributes, opaque, .. } => {
                    assert_eq!((&shown.kind, shown.inode.as_slice()), (&ShownKind::Directory, path));
                    let mark = match shows {
                        Shows::Layer if *opaque => Some((&b"trusted.overlay.opaque"[..], &b"y"[..])),
                        Shows::Layer if mark_holders.contains(path) => Some((&b"trusted.overlay.origin"[..], &b""[..])),
                        _ => None,
                    };
                    let implied = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() };
                    assert_attributes(shown, attributes.as_ref().unwrap_or(&implied), mark);
                }
                Thing::Leaf(index) => {
                    assert_eq!(shown.inode, *inodes.entry(Some(*index)).or_insert(path), "other hard links");
                    let (entry, data) = &self.entries[*index];
                    assert_attributes(shown, &entry.attributes, None);
                    assert_leaf(shown, entry, data, files);
                }
                Thing::Whiteout => {
                    assert_eq!(shown.inode, *inodes.entry(None).or_insert(path));
                    assert_eq!(shown.kind, ShownKind::CharDevice { major: 0, minor: 0 });
                }
                Thing::Below => {}
            }
        }
    }
}

/// A reason that the fold does not know.
pub(super) fn is_on_purpose(error: &Error) -> bool {
    let text = format!("{error:#}");
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::LimitExceeded)
        || text.ends_with("its ACL is malformed")
        || text.ends_with("its security.capability is malformed")
}

fn is_beyond_erofs(entry: &Entry) -> bool {
    let xattrs: usize = entry.attributes.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let kind = match &entry.kind {
        Kind::CharDevice(device) | Kind::BlockDevice(device) => device.major >= 1 << 12 || device.minor >= 1 << 20,
        Kind::File { size, sparse: Some(_) } => *size > 1 << 40,
        _ => false,
    };
    kind || xattrs > 60_000 || entry.attributes.xattrs.iter().any(|(name, _)| name.len() > 255)
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}

fn assert_attributes(shown: &Shown, wanted: &Attributes, mark: Option<(&[u8], &[u8])>) {
    let symlink = matches!(shown.kind, ShownKind::Symlink(_));
    let directory = shown.kind == ShownKind::Directory;
    assert_eq!((shown.uid, shown.gid, shown.mtime), (wanted.uid, wanted.gid, wanted.mtime), "{shown:?}");
    let is_acl = |name: &[u8]| name.starts_with(b"system.posix_acl_");
    // An ACL has a say in the mode, and need not be kept then.
    let told = if wanted.xattrs.iter().any(|(name, _)| name == b"system.posix_acl_access") { 0o7000 } else { 0o7777 };
    let mode = if symlink { 0o777 } else { wanted.mode & told };
    assert_eq!(u32::from(shown.mode) & if symlink { 0o7777 } else { told }, mode, "{shown:?}");
    let users = directory || matches!(shown.kind, ShownKind::File { .. });
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (name, value) in &wanted.xattrs {
        if let Verdict::Set(name) = judge(name, OverlayXattrs::Trusted)
            && (users || !name.starts_with(b"user."))
            && !is_acl(&name)
        {
            assert_eq!(xattrs.insert(name, value.clone()), None, "two xattrs of one name");
        }
    }
    xattrs.extend(mark.map(|(name, value)| (name.to_vec(), value.to_vec())));
    let (acls, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        shown.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).partition(|(name, _)| is_acl(name));
    assert_eq!(others, xattrs, "{shown:?}");
    for acl in acls {
        assert!(wanted.xattrs.contains(&acl) && !symlink, "{shown:?}");
        assert!(directory || acl.0 != b"system.posix_acl_default", "{shown:?}");
    }
}

fn assert_leaf(shown: &Shown, entry: &Entry, data: &[u8], files: &[&File]) {
    match (&shown.kind, &entry.kind) {
        (ShownKind::File { size: shown, extents }, Kind::File { size, sparse }) => {
            assert_eq!(shown, size);
            assert_content(extents, *size, sparse.as_deref(), data, files);
        }
        (ShownKind::Symlink(shown), Kind::Symlink(target)) => assert_eq!(shown, target),
        (ShownKind::CharDevice { major, minor }, Kind::CharDevice(device))
        | (ShownKind::BlockDevice { major, minor }, Kind::BlockDevice(device)) => {
            assert_eq!((*major, *minor), (device.major, device.minor));
        }
        (ShownKind::Fifo, Kind::Fifo) => {}
        other => panic!("another kind: {other:?}"),
    }
}

fn assert_content(extents: &[Extent], size: u64, sparse: Option<&[Region]>, data: &[u8], files: &[&File]) {
    let whole = size <= WHOLE;
    let Some(regions) = sparse else {
        assert!(bytes(extents, 0, size, files) == data, "other content");
        return;
    };
    let mut content = vec![0; if whole { size as usize } else { 0 }];
    let mut rest = data;
    for region in regions {
        let (piece, behind) = rest.split_at(region.length as usize);
        rest = behind;
        if whole {
            content[region.offset as usize..][..piece.len()].copy_from_slice(piece);
        } else {
            assert!(bytes(extents, region.offset, region.length, files) == piece, "other content");
        }
    }
    assert!(!whole || bytes(extents, 0, size, files) == content, "other content, or none where a hole is");
}

/// Bytes of a file out of its extents.
fn bytes(extents: &[Extent], offset: u64, length: u64, files: &[&File]) -> Vec<u8> {
    let end = offset + length;
    let (mut bytes, mut start) = (Vec::new(), 0);
    for Extent { place, blocks } in extents {
        let behind = start + blocks * 512;
        let (from, to) = (start.max(offset), behind.min(end));
        if from < to {
            match place {
                Place::Hole => bytes.resize(bytes.len() + (to - from) as usize, 0),
                Place::At { device, block } => {
                    let at = u64::from(*block) * 512 + (from - start);
                    bytes.extend(range_of(files[usize::from(*device)], at, (to - from) as usize));
                }
            }
        }
        start = behind;
    }
    bytes
}
