//! Trees for tests, and the files that their images consist of.

use std::collections::BTreeMap;

use super::super::*;
use crate::erofs::format::chunk_count;
use crate::erofs::tree::{Data, Entry, HOLE, Metadata, Named, Xattrs};
use crate::layer::Device;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Where<'a> {
    pub(super) directory: InodeId,
    pub(super) name: &'a [u8],
}

/// A name in the root.
pub(super) fn named(name: &[u8]) -> Where<'_> {
    Where { directory: InodeId::ROOT, name }
}

pub(super) struct Builder {
    tree: Tree,
    entries: BTreeMap<InodeId, BTreeMap<Vec<u8>, Child>>,
}

impl Builder {
    pub(super) fn new() -> Self {
        let mut builder = Self { tree: Tree::default(), entries: BTreeMap::new() };
        let root = builder.add(Metadata::IMPLIED, What::Directory(Directory::new(Named::Here, false)));
        assert_eq!(root, InodeId::ROOT);
        builder
    }

    fn add(&mut self, metadata: Metadata, what: What) -> InodeId {
        let id = self.tree.add_inode(tree::Inode { metadata, what }).unwrap();
        if let What::Directory(_) = what {
            self.entries.insert(id, BTreeMap::new());
        }
        id
    }

    pub(super) fn metadata(&mut self, xattrs: Xattrs) -> Metadata {
        Metadata { xattrs: self.tree.add_xattrs(xattrs).unwrap(), ..Metadata::IMPLIED }
    }

    pub(super) fn set(&mut self, id: InodeId, metadata: Metadata) {
        self.tree.inode_mut(id).unwrap().metadata = metadata;
    }

    /// Whether a name is still free.
    pub(super) fn is_free(&self, at: Where<'_>) -> bool {
        !matches!(at.name, b"." | b"..") && !self.entries[&at.directory].contains_key(at.name)
    }

    pub(super) fn name(&mut self, at: Where<'_>, child: Child) {
        assert!(self.is_free(at), "a name stands twice");
        self.entries.get_mut(&at.directory).unwrap().insert(at.name.to_vec(), child);
    }

    pub(super) fn put_with(&mut self, at: Where<'_>, metadata: Metadata, what: What) -> InodeId {
        let id = self.add(metadata, what);
        self.name(at, Child::Inode(id));
        id
    }

    pub(super) fn put(&mut self, at: Where<'_>, what: What) -> InodeId {
        self.put_with(at, Metadata::IMPLIED, what)
    }

    pub(super) fn orphan(&mut self, what: What) {
        self.add(Metadata::IMPLIED, what);
    }

    /// An empty file.
    pub(super) fn file(&mut self, at: Where<'_>) -> InodeId {
        self.put(at, What::File { size: 0, data: Data::Plain { device: 0, block: 0 } })
    }

    pub(super) fn directory(&mut self, at: Where<'_>, metadata: Metadata) -> InodeId {
        self.put_with(at, metadata, What::Directory(Directory::new(Named::Here, false)))
    }

    pub(super) fn opaque(&mut self, at: Where<'_>) -> InodeId {
        self.put(at, What::Directory(Directory::new(Named::Here, true)))
    }

    pub(super) fn opaque_root(&mut self, opaque: bool) {
        let what = What::Directory(Directory::new(Named::Here, opaque));
        self.tree.inode_mut(InodeId::ROOT).unwrap().what = what;
    }

    pub(super) fn symlink(&mut self, at: Where<'_>, metadata: Metadata, target: &[u8]) -> InodeId {
        let target = self.tree.add_text(target).unwrap();
        self.put_with(at, metadata, What::Symlink(target))
    }

    pub(super) fn chunks(&mut self, size: u64, device: u16, bits: u8, blocks: &[u32]) -> What {
        assert_eq!(chunk_count(size, bits), blocks.len() as u64);
        let first = self.tree.add_chunks(blocks.iter().copied()).unwrap();
        What::File { size, data: Data::Chunks { device, bits, first } }
    }

    pub(super) fn finish(mut self) -> Tree {
        for (id, entries) in std::mem::take(&mut self.entries) {
            let entries =
                entries.into_iter().map(|(name, child)| Entry { name: self.tree.add_text(&name).unwrap(), child });
            let entries: Vec<_> = entries.collect();
            self.tree.add_entries(id, entries).unwrap();
        }
        self.tree
    }
}

/// The files of an image: its own one, with this many blocks of content, and others.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) own: u32,
    pub(super) devices: Vec<u32>,
}

impl Files {
    pub(super) fn in_one(own: u32) -> Self {
        Self { own, devices: Vec::new() }
    }

    pub(super) fn apart(devices: Vec<u32>) -> Self {
        Self { own: 0, devices }
    }

    pub(super) fn device_bytes(&self) -> Vec<u64> {
        self.devices.iter().map(|blocks| u64::from(*blocks) * 512).collect()
    }

    pub(super) fn own_start(&self) -> u32 {
        front_blocks(self.devices.len())
    }

    /// The blocks that content may have: device, first block, number of blocks.
    pub(super) fn places(&self) -> Vec<(u16, u32, u32)> {
        let others = self.devices.iter().zip(1..).map(|(blocks, device)| (device, 0, *blocks));
        std::iter::once((0, self.own_start(), self.own)).chain(others).filter(|place| place.2 > 0).collect()
    }

    /// The whole image file.
    pub(super) fn image(&self, tree: &Tree) -> Result<Vec<u8>, WriteError> {
        let first_block = self.own_start() + self.own;
        let mut image = vec![0; self.own_start() as usize * 512];
        for block in self.own_start()..first_block {
            image.extend(content(0, block));
        }
        let target = Target { first_block, devices: &self.devices };
        let front = write(tree, &target, &mut image)?;
        let front = front.to_bytes(*b"0123456789abcdef");
        image[1024..1024 + front.len()].copy_from_slice(&front);
        Ok(image)
    }
}

/// Bytes of a block of content, other ones for each.
pub(super) fn content(device: u16, block: u32) -> [u8; 512] {
    std::array::from_fn(|index| content_byte(device, block, index))
}

pub(super) fn content_byte(device: u16, block: u32, index: usize) -> u8 {
    let seed = u32::from(device).wrapping_mul(2_654_435_761).wrapping_add(block.wrapping_mul(40_503));
    (seed.rotate_left(index as u32 % 32) as u8).wrapping_add(index as u8)
}

/// An access ACL as the kernel takes it: version 2; owner, a user, group, mask, others.
pub(super) fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 6, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// One of everything that a layer can have.
pub(super) fn everything(files: &Files) -> Tree {
    let mut builder = Builder::new();
    let xattrs = vec![
        (b"user.name".to_vec(), b"value".to_vec()),
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (b"trusted.overlay.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"system.posix_acl_access".to_vec(), acl()),
        (b"user.large".to_vec(), vec![b'l'; 5000]),
    ];
    let mut metadata = builder.metadata(xattrs);
    metadata.mode = 0o6755;
    metadata.uid = u32::MAX - 1;
    metadata.gid = 70_000;
    metadata.mtime = (-12_345_678_901, 999_999_999);
    let root = builder.metadata(vec![(b"trusted.root".to_vec(), Vec::new())]);
    builder.set(InodeId::ROOT, root);

    let directory = builder.directory(named(b"directory"), metadata);
    let inside = builder.opaque(Where { directory, name: b"opaque" });
    let hidden = builder.put(named(b"with-whiteouts"), What::Directory(Directory::new(Named::Here, false)));
    for at in [named(b"gone"), Where { directory: hidden, name: b"gone" }, Where { directory: inside, name: b"gone" }] {
        builder.name(at, Child::Whiteout);
    }
    let (device, first, blocks) = files.places()[0];
    let all = u64::from(blocks) * 512;
    for (name, size) in [(&b"one"[..], 1), (b"block", 512), (b"all", all), (b"almost", all - 1)] {
        let data = Data::Plain { device, block: first };
        let file = builder.put_with(Where { directory, name }, metadata, What::File { size, data });
        builder.name(named(name), Child::Inode(file));
    }
    let sparse = builder.chunks(512 * 9 + 3, device, 1, &[first + 4, HOLE, HOLE, first, first + 7]);
    builder.put(named(b"sparse"), sparse);
    let holes = builder.chunks(1 << 41, device, 31, &[HOLE, HOLE]);
    builder.put(named(b"holes"), holes);
    builder.file(named(b"empty"));
    for length in [1, 100, 400, 512, 600, 4095] {
        builder.symlink(named(format!("link{length}").as_bytes()), Metadata::IMPLIED, &vec![b'x'; length]);
    }
    builder.put(named(b"null"), What::CharDevice(Device { major: 1, minor: 3 }));
    // Programs cannot ask for `user.*` of a device, though they would see it listed.
    metadata.xattrs = builder.metadata(vec![(b"security.name".to_vec(), b"value".to_vec())]).xattrs;
    builder.put_with(named(b"disk"), metadata, What::BlockDevice(Device { major: 4095, minor: 0xf_ffff }));
    let fifo = builder.put(named(b"fifo"), What::Fifo);
    builder.name(Where { directory: inside, name: b"fifo" }, Child::Inode(fifo));
    builder.finish()
}
