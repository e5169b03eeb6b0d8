//! Trees in a form that can be compared: from what was written, and from what was read. For tests and fuzzing only.

use std::collections::BTreeMap;

use super::reader::{Extent, Image, Kind, Place, push_extent};
use super::tree::{self, Child, Data, HOLE, InodeId, Metadata, Tree, What};

pub(crate) type Listing = BTreeMap<Vec<u8>, Shown>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode.
    pub(crate) inode: Vec<u8>,
}

/// A path: of a directory's, with a slash behind it.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// Names the inode of each path by its first path.
pub(crate) fn share<K: Ord>(paths: &BTreeMap<Vec<u8>, K>) -> BTreeMap<&K, &Vec<u8>> {
    paths.iter().rev().map(|(path, key)| (key, path)).collect()
}

pub(crate) fn seen(image: &Image) -> Listing {
    let mut paths: Vec<Vec<u8>> = Vec::new();
    let mut inodes = BTreeMap::new();
    for (index, name) in image.names.iter().enumerate() {
        let path = if index == 0 { Vec::new() } else { join(&paths[name.directory], &name.name) };
        paths.push(path.clone());
        assert_eq!(inodes.insert(path, name.inode), None);
    }
    let first = share(&inodes);
    let show = |index: &usize| {
        let inode = &image.inodes[*index];
        Shown {
            kind: inode.kind.clone(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            links: inode.links,
            xattrs: inode.xattrs.clone(),
            inode: first[index].clone(),
        }
    };
    inodes.iter().map(|(path, index)| (path.clone(), show(index))).collect()
}

/// What is to be seen of a tree; `None` is the inode of the whiteouts.
pub(crate) fn expected(tree: &Tree) -> Listing {
    let mut inodes: BTreeMap<Vec<u8>, Option<InodeId>> = BTreeMap::from([(Vec::new(), Some(InodeId::ROOT))]);
    let mut subdirectories: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut pending = vec![(Vec::new(), InodeId::ROOT)];
    while let Some((path, id)) = pending.pop() {
        for entry in tree.entries(tree.directory(id).unwrap()) {
            let path = join(&path, tree.text(entry.name));
            let child = match entry.child {
                Child::Inode(child) => Some(child),
                Child::Whiteout => None,
                Child::Below(_) => continue,
            };
            if let Some(child) = child.filter(|child| tree.directory(*child).is_some()) {
                *subdirectories.entry(id).or_default() += 1;
                pending.push((path.clone(), child));
            }
            inodes.insert(path, child);
        }
    }
    let first = share(&inodes);
    let mut names: BTreeMap<Option<InodeId>, u32> = BTreeMap::new();
    for inode in inodes.values() {
        *names.entry(*inode).or_default() += 1;
    }
    let show = |inode: &Option<InodeId>| {
        let path = first[inode].clone();
        let Some(id) = *inode else {
            return Shown {
                kind: Kind::CharDevice { major: 0, minor: 0 },
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                links: names[inode],
                xattrs: BTreeMap::new(),
                inode: path,
            };
        };
        let found = tree.inode(id).unwrap();
        let Metadata { mode, uid, gid, mtime, xattrs } = found.metadata;
        let mut xattrs: BTreeMap<_, _> = tree.xattrs(xattrs).iter().cloned().collect();
        let mut links = names[inode];
        if let What::Directory(directory) = found.what {
            links = subdirectories.get(&id).copied().unwrap_or_default() + 2;
            if directory.opaque && id != InodeId::ROOT {
                xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
            } else if directory.whiteouts {
                xattrs.insert(b"trusted.overlay.origin".to_vec(), Vec::new());
            }
        }
        Shown { kind: kind(tree, found), mode, uid, gid, mtime, links, xattrs, inode: path }
    };
    inodes.iter().map(|(path, inode)| (path.clone(), show(inode))).collect()
}

fn kind(tree: &Tree, inode: &tree::Inode) -> Kind {
    match inode.what {
        What::Directory(_) => Kind::Directory,
        What::File { size, data } => Kind::File { size, extents: extents(tree, size, data) },
        What::Symlink(target) => Kind::Symlink(tree.text(target).to_vec()),
        What::CharDevice(device) => Kind::CharDevice { major: device.major, minor: device.minor },
        What::BlockDevice(device) => Kind::BlockDevice { major: device.major, minor: device.minor },
        What::Fifo => Kind::Fifo,
    }
}

fn extents(tree: &Tree, size: u64, data: Data) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut left = size.div_ceil(512);
    match data {
        _ if size == 0 => {}
        Data::Plain { device, block } => push_extent(&mut extents, Place::At { device, block }, left),
        Data::Chunks { device, bits, first } => {
            for block in tree.chunks(size, bits, first) {
                let blocks = left.min(1 << bits);
                let place = if *block == HOLE { Place::Hole } else { Place::At { device, block: *block } };
                push_extent(&mut extents, place, blocks);
                left -= blocks;
            }
        }
    }
    extents
}
