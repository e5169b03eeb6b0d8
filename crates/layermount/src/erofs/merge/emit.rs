//! Writes the merged tree out as a [`Tree`] of its own: no marks, no open ends, and content where it lies in the layers' files.
//!
//! What lies in one directory has neighbouring inodes, and one directory's content follows the other's in the order in which
//! `find` asks for them.

use std::collections::HashMap;

use super::super::tree::{
    Child, Data, DeviceId, Directory, Entry, Full, HOLE, Inode, InodeId, Metadata, Named, Tree, What as TreeWhat,
    XattrsId,
};
use super::Merged;
use super::nodes::{FileId, Layer, Nodes, Origin, What};

pub(super) fn emit(nodes: &Nodes<'_>, layers: usize) -> Result<Merged, Full> {
    let mut emission = Emission {
        nodes,
        tree: Tree::default(),
        files: vec![None; nodes.file_count()],
        xattrs: HashMap::new(),
        slots: vec![None; layers],
        devices: Vec::new(),
    };
    emission.walk()?;
    Ok(Merged { tree: emission.tree, devices: emission.devices })
}

struct Emission<'n, 'a> {
    nodes: &'n Nodes<'a>,
    tree: Tree,
    /// What became of the files that were met already: one with several names stays one.
    files: Vec<Option<InodeId>>,
    /// The same by layer and set of xattrs there.
    xattrs: HashMap<(usize, XattrsId), XattrsId>,
    /// The devices of layers.
    slots: Vec<Option<DeviceId>>,
    devices: Vec<usize>,
}

impl<'a> Emission<'_, 'a> {
    fn walk(&mut self) -> Result<(), Full> {
        let nodes = self.nodes;
        let root = nodes.root();
        let Some(What::Directory(origin)) = nodes.what(root) else { return Ok(()) };
        let mut open = vec![(root, self.directory(origin)?)];
        while let Some((node, id)) = open.pop() {
            let mut children: Vec<_> = nodes.children(node).collect();
            children.sort_unstable_by_key(|(_, name, _)| *name);
            let mut entries = Vec::with_capacity(children.len());
            let first = open.len();
            for (child, name, what) in children {
                let inode = match what {
                    What::Directory(origin) => {
                        let inode = self.directory(origin)?;
                        open.push((child, inode));
                        inode
                    }
                    What::File(file) => match self.file(file)? {
                        Some(inode) => inode,
                        None => continue,
                    },
                };
                entries.push(Entry { name: self.tree.add_text(name)?, child: Child::Inode(inode) });
            }
            // The first one is the next to be opened.
            open.get_mut(first..).unwrap_or_default().reverse();
            self.tree.add_entries(id, entries)?;
        }
        Ok(())
    }

    fn directory(&mut self, origin: Option<Origin<'a>>) -> Result<InodeId, Full> {
        let metadata = match origin {
            Some(origin) => self.metadata(origin)?,
            None => Metadata::IMPLIED,
        };
        self.tree.add_inode(Inode { metadata, what: TreeWhat::Directory(Directory::new(Named::Here, false)) })
    }

    fn file(&mut self, file: FileId) -> Result<Option<InodeId>, Full> {
        if let Some(Some(inode)) = self.files.get(file.index()) {
            return Ok(Some(*inode));
        }
        let Some(origin) = self.nodes.file(file) else { return Ok(None) };
        let what = match origin.inode.what {
            TreeWhat::File { size, data } => TreeWhat::File { size, data: self.data(origin.layer, size, data)? },
            TreeWhat::Symlink(target) => TreeWhat::Symlink(self.tree.add_text(origin.layer.tree.text(target))?),
            what @ (TreeWhat::CharDevice(_) | TreeWhat::BlockDevice(_) | TreeWhat::Fifo) => what,
            // Those are nodes of the other kind.
            TreeWhat::Directory(_) => return Ok(None),
        };
        let metadata = self.metadata(origin)?;
        let inode = self.tree.add_inode(Inode { metadata, what })?;
        if let Some(place) = self.files.get_mut(file.index()) {
            *place = Some(inode);
        }
        Ok(Some(inode))
    }

    fn metadata(&mut self, origin: Origin<'a>) -> Result<Metadata, Full> {
        let metadata = origin.inode.metadata;
        if metadata.xattrs == XattrsId::NONE {
            return Ok(metadata);
        }
        let key = (origin.layer.index, metadata.xattrs);
        if let Some(xattrs) = self.xattrs.get(&key) {
            return Ok(Metadata { xattrs: *xattrs, ..metadata });
        }
        let xattrs = self.tree.add_xattrs(origin.layer.tree.xattrs(metadata.xattrs).to_vec())?;
        self.xattrs.insert(key, xattrs);
        Ok(Metadata { xattrs, ..metadata })
    }

    /// The same content, told from the merged image. What is nothing, or nothing but holes, lies on no device.
    fn data(&mut self, layer: &Layer<'_>, size: u64, data: Data) -> Result<Data, Full> {
        match data {
            _ if size == 0 => Ok(Data::Plain { device: 0, block: 0 }),
            Data::Plain { block, .. } => Ok(Data::Plain { device: self.device(layer)?, block }),
            Data::Chunks { bits, first, .. } => {
                let blocks = layer.tree.chunks(size, bits, first);
                let device = if blocks.iter().all(|block| *block == HOLE) { 0 } else { self.device(layer)? };
                Ok(Data::Chunks { device, bits, first: self.tree.add_chunks(blocks.iter().copied())? })
            }
        }
    }

    fn device(&mut self, layer: &Layer<'_>) -> Result<DeviceId, Full> {
        if let Some(Some(slot)) = self.slots.get(layer.index) {
            return Ok(*slot);
        }
        self.devices.push(layer.index);
        let slot = DeviceId::try_from(self.devices.len()).map_err(|_| Full)?;
        if let Some(place) = self.slots.get_mut(layer.index) {
            *place = Some(slot);
        }
        Ok(slot)
    }
}
