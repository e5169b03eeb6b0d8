//! Layers' trees out of recipes' entries, and merged trees as the model's lines.
//!
//! The entries are plain: one for a path, and no name leads through a symlink of its own layer. What becomes of others is not the
//! merger's to know.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use layermount_fixtures::{Entry, Kind, sha256};

use super::super::super::format::BLOCK;
use super::super::super::tree::{
    Child, Data, Directory, Entry as TreeEntry, HOLE, Inode, InodeId, Metadata, Named, Tree, What, XattrsId,
};
use super::super::Merged;
use crate::layer::Device;

type Path = Vec<Vec<u8>>;

/// A layer, and the contents of its files: where they lie is their place in here.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) tree: Tree,
    contents: Vec<Vec<u8>>,
}

/// What a layer says of a path.
#[derive(Debug, Clone, PartialEq)]
enum Own {
    Implied,
    Directory(Metadata),
    /// `file` is the first entry for it.
    Leaf {
        file: usize,
    },
    Below(Vec<u8>),
    /// Only marks lead here.
    Mentioned,
}

/// The components of a name, or none if it is not plain.
fn path(name: &[u8]) -> Option<Path> {
    let mut path = Path::new();
    for component in name.split(|byte| *byte == b'/').filter(|component| !matches!(*component, b"" | b".")) {
        match component {
            b".." => drop(path.pop()?),
            component => path.push(component.to_vec()),
        }
    }
    Some(path)
}

impl Layer {
    /// The layer that these entries make; `None` if one of them is not plain, or means nothing.
    pub(super) fn new(entries: &[Entry]) -> Option<Self> {
        let mut layer = Self::default();
        let mut own = BTreeMap::from([(Path::new(), Own::Implied)]);
        let (mut whiteouts, mut opaque) = (BTreeSet::new(), BTreeSet::new());
        for (index, entry) in entries.iter().enumerate() {
            let mut path = path(&entry.name)?;
            if path.iter().rev().skip(1).any(|parent| parent.starts_with(b".wh.")) {
                return None;
            }
            if let Some(mark) = path.last().and_then(|name| name.strip_prefix(b".wh.")).map(<[u8]>::to_vec) {
                path.pop();
                match &*mark {
                    b".wh..opq" => drop(opaque.insert(path)),
                    mark if mark.starts_with(b".wh.") => {}
                    name => {
                        path.push(name.to_vec());
                        whiteouts.insert(path);
                    }
                }
                continue;
            }
            for depth in 0..path.len() {
                let parent = own.entry(path[..depth].to_vec()).or_insert(Own::Implied);
                if !matches!(parent, Own::Implied | Own::Directory(_)) {
                    return None;
                }
            }
            let what = match &entry.kind {
                Kind::Directory => Own::Directory(layer.metadata(entry)),
                Kind::Hardlink(target) => {
                    let target = self::path(target)?;
                    let through = (1..target.len()).any(|depth| leaf(own.get(&target[..depth])));
                    match own.get(&target) {
                        _ if through || target == path => return None,
                        Some(Own::Implied | Own::Directory(_)) => return None,
                        Some(own) => own.clone(),
                        None => Own::Below(target.join(&b'/')),
                    }
                }
                _ => Own::Leaf { file: index },
            };
            match own.insert(path, what) {
                None | Some(Own::Implied) => {}
                Some(_) => return None,
            }
        }
        let later = |own: &BTreeMap<Path, Own>, target: &[u8]| own.contains_key(&path(target).unwrap());
        if own.values().any(|what| matches!(what, Own::Below(target) if later(&own, target))) {
            return None;
        }
        let is_leaf = |own: &BTreeMap<Path, Own>, path: &[Vec<u8>]| leaf(own.get(path));
        whiteouts.retain(|path| !(1..=path.len()).any(|depth| is_leaf(&own, &path[..depth])));
        opaque.retain(|path| !(1..=path.len()).any(|depth| is_leaf(&own, &path[..depth])));
        for path in whiteouts.iter().chain(&opaque) {
            for depth in 0..=path.len() {
                own.entry(path[..depth].to_vec()).or_insert(Own::Mentioned);
            }
        }
        let hides = |path: &[Vec<u8>]| whiteouts.contains(path) || opaque.contains(path);
        layer.build(entries, &own, &whiteouts, hides);
        Some(layer)
    }

    fn build(
        &mut self,
        entries: &[Entry],
        own: &BTreeMap<Path, Own>,
        whiteouts: &BTreeSet<Path>,
        hides: impl Fn(&[Vec<u8>]) -> bool,
    ) {
        let mut directories: BTreeMap<Path, (InodeId, Vec<TreeEntry>)> = BTreeMap::new();
        let mut files: HashMap<usize, InodeId> = HashMap::new();
        for (path, what) in own {
            let hidden = (0..path.len()).any(|depth| hides(&path[..depth]));
            let whiteout = whiteouts.contains(path);
            let named = |only_whiteouts| match hidden || whiteout {
                true => Named::Here,
                false => Named::Below { only_whiteouts },
            };
            let directory = match what {
                Own::Implied => Some((Metadata::IMPLIED, named(false))),
                Own::Directory(metadata) => Some((*metadata, Named::Here)),
                Own::Mentioned if hidden => continue,
                Own::Mentioned if !whiteout => Some((Metadata::IMPLIED, named(true))),
                _ => None,
            };
            let child = match what {
                Own::Leaf { file } => {
                    let inode = match files.get(file) {
                        Some(inode) => *inode,
                        None => self.leaf(&entries[*file]),
                    };
                    files.insert(*file, inode);
                    Child::Inode(inode)
                }
                Own::Below(target) => Child::Below(self.tree.add_text(target).unwrap()),
                _ => match directory {
                    Some((metadata, named)) => {
                        let what = What::Directory(Directory::new(named, hides(path) && !hidden));
                        let inode = self.tree.add_inode(Inode { metadata, what }).unwrap();
                        directories.insert(path.clone(), (inode, Vec::new()));
                        Child::Inode(inode)
                    }
                    None => Child::Whiteout,
                },
            };
            if let Some((name, parent)) = path.split_last() {
                let name = self.tree.add_text(name).unwrap();
                directories.get_mut(parent).unwrap().1.push(TreeEntry { name, child });
            }
        }
        for (inode, entries) in directories.into_values() {
            self.tree.add_entries(inode, entries).unwrap();
        }
    }

    fn leaf(&mut self, entry: &Entry) -> InodeId {
        let metadata = self.metadata(entry);
        let what = match &entry.kind {
            Kind::File(content) => self.content(content.clone()),
            Kind::Symlink(target) => What::Symlink(self.tree.add_text(target).unwrap()),
            Kind::Char(major, minor) => What::CharDevice(Device { major: *major, minor: *minor }),
            Kind::Block(major, minor) => What::BlockDevice(Device { major: *major, minor: *minor }),
            Kind::Fifo => What::Fifo,
            Kind::Directory | Kind::Hardlink(_) => unreachable!("no leaf"),
        };
        self.tree.add_inode(Inode { metadata, what }).unwrap()
    }

    /// What is long enough lies in chunks.
    fn content(&mut self, content: Vec<u8>) -> What {
        const BITS: u8 = 2;
        let (size, block) = (content.len() as u64, self.contents.len() as u32);
        self.contents.push(content);
        let count = size.div_ceil(BLOCK << BITS) as u32;
        let data = match count {
            0 | 1 => Data::Plain { device: 0, block },
            _ => {
                let blocks = (0..count).map(|chunk| if chunk == 1 { HOLE } else { block + chunk });
                Data::Chunks { device: 0, bits: BITS, first: self.tree.add_chunks(blocks).unwrap() }
            }
        };
        What::File { size, data }
    }

    fn metadata(&mut self, entry: &Entry) -> Metadata {
        let Entry { kind, mode, uid, gid, mtime, xattrs, .. } = entry;
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { *mode as u16 };
        let xattrs = match kind {
            Kind::Symlink(_) => XattrsId::NONE,
            _ => {
                let xattrs = xattrs.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone()));
                self.tree.add_xattrs(xattrs.collect()).unwrap()
            }
        };
        Metadata { mode, uid: *uid, gid: *gid, mtime: (mtime.seconds, mtime.nanoseconds), xattrs }
    }
}

fn leaf(own: Option<&Own>) -> bool {
    matches!(own, Some(Own::Leaf { .. } | Own::Below(_)))
}

/// A merged tree as the model shows its own. Also checks that the tree is one that needs no layers below.
pub(super) fn lines(merged: &Merged, layers: &[&Layer]) -> BTreeMap<String, String> {
    let tree = &merged.tree;
    let mut nodes = BTreeMap::from([(Path::new(), InodeId::ROOT)]);
    let mut open = vec![(Path::new(), InodeId::ROOT)];
    while let Some((path, id)) = open.pop() {
        let directory = tree.directory(id).unwrap();
        assert!(directory.named == Named::Here && !directory.opaque && !directory.whiteouts, "{directory:?}");
        let entries = tree.entries(directory);
        assert!(entries.is_sorted_by(|a, b| tree.text(a.name) < tree.text(b.name)), "not sorted");
        for entry in entries {
            let Child::Inode(child) = entry.child else { panic!("{:?} is left over", entry.child) };
            let path = [&path[..], &[tree.text(entry.name).to_vec()]].concat();
            nodes.insert(path.clone(), child);
            if tree.directory(child).is_some() {
                open.push((path, child));
            }
        }
    }
    let reached: HashSet<_> = nodes.values().collect();
    assert_eq!(reached.len(), tree.inodes().len(), "there are inodes without a name");
    let mut first_names: HashMap<InodeId, String> = HashMap::new();
    let mut lines = BTreeMap::new();
    let mut devices = BTreeSet::new();
    for (path, id) in nodes {
        let Inode { metadata, what } = tree.inode(id).unwrap();
        let path = std::iter::once("/".to_owned()).chain([path.join(&b'/').escape_ascii().to_string()]).collect();
        let bytes = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let directory = matches!(what, What::Directory(_));
        let what = match *what {
            What::Directory(_) => "a directory".to_owned(),
            What::File { size, data } => match content(merged, layers, size, data, &mut devices) {
                content if content.len() > 100 => format!("a file of {} bytes, {}", content.len(), sha256(content)),
                content => format!("a file with \"{}\"", bytes(content)),
            },
            What::Symlink(target) => format!("a symlink to {}", bytes(tree.text(target))),
            What::CharDevice(Device { major, minor }) => format!("the character device {major}:{minor}"),
            What::BlockDevice(Device { major, minor }) => format!("the block device {major}:{minor}"),
            What::Fifo => "a fifo".to_owned(),
        };
        let Metadata { mode, uid, gid, mtime: (seconds, nanoseconds), xattrs } = metadata;
        let mut line = format!("{what}, {mode:04o} {uid}:{gid} {seconds}.{nanoseconds:09}");
        for (name, value) in tree.xattrs(*xattrs).iter().collect::<BTreeSet<_>>() {
            line += &format!(", {}=\"{}\"", bytes(name), bytes(value));
        }
        if !directory {
            let first: &String = first_names.entry(id).or_insert_with(|| String::clone(&path));
            if *first != path {
                line += &format!(", one file with {first}");
            }
        }
        lines.insert(path, line);
    }
    assert_eq!(devices.len(), merged.devices.len(), "there are devices without content");
    lines
}

fn content<'a>(merged: &Merged, layers: &[&'a Layer], size: u64, data: Data, devices: &mut BTreeSet<u16>) -> &'a [u8] {
    let (device, block) = match data {
        Data::Plain { device, .. } if size == 0 => {
            assert_eq!(device, 0);
            return &[];
        }
        Data::Plain { device, block } => (device, block),
        Data::Chunks { device, bits, first } => {
            let chunks = merged.tree.chunks(size, bits, first);
            for (index, chunk) in chunks.iter().enumerate() {
                assert_eq!(*chunk, if index == 1 { HOLE } else { chunks[0] + index as u32 }, "{chunks:?}");
            }
            (device, chunks[0])
        }
    };
    devices.insert(device);
    let content = &layers[merged.devices[usize::from(device) - 1]].contents[block as usize];
    assert_eq!(content.len() as u64, size);
    content
}
