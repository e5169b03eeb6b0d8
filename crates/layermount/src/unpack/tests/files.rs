//! Layers in EROFS files, for the tests that ask every backing the same.

use std::fs::File;

use super::*;
use crate::erofs::{self, LayerFile, Packed};
use crate::stack::{LayerStack, StackedLayer};

/// How layers in files are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Each by itself, as far as they stand alone.
    Each,
    /// One index over all.
    Merged,
    /// One index over all, with whatever there is little of in it, as a store makes it.
    Absorbed,
}

/// Layers packed one after the other, as a store would.
pub(crate) struct Files {
    /// Not where other tests' directories may lie: the kernel mounts no file of a tmpfs.
    place: tempfile::TempDir,
    mounts: Mounts,
    layers: Vec<(File, Packed)>,
}

impl Files {
    pub(crate) fn new(mounts: Mounts) -> Self {
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(place.path().join("layers")).unwrap();
        Self { place, mounts, layers: Vec::new() }
    }

    /// Whether the kernel mounts what these tests make; says so if not.
    pub(crate) fn can_be_mounted() -> bool {
        if !is_root() {
            skip("root", "only root can mount EROFS files");
            return false;
        }
        let files = Self::new(Mounts::Merged);
        let file = files.create("probe");
        erofs::write_smallest(&file).unwrap();
        let mounted = erofs::mount(file.as_fd(), file.as_fd(), &[]);
        if let Err(error) = &mounted {
            skip("erofs", &format!("files in /var/tmp cannot be mounted: {error:#}"));
        }
        mounted.is_ok()
    }

    fn create(&self, name: &str) -> File {
        let path = self.place.path().join("layers").join(name);
        File::options().read(true).write(true).create_new(true).open(path).unwrap()
    }

    fn merge(&self) -> Result<erofs::Merged> {
        let trees: Vec<_> = self.layers.iter().map(|(_, packed)| &packed.tree).collect();
        Ok(erofs::merge(&trees)?)
    }

    /// The stack of a store, but for the locks.
    fn stacked(&self, file: File, devices: &[String]) -> StackedLayer {
        let layers = open(&self.place.path().join("layers"));
        let root = erofs::mount(file.as_fd(), layers.as_fd(), devices).unwrap();
        StackedLayer::mounted(root, OwnedFd::from(file).into(), self.place.path().to_owned())
    }

    fn merged(&self) -> StackedLayer {
        let merged = self.merge().unwrap();
        let files: Vec<_> = (self.layers.iter())
            .map(|(file, _)| LayerFile { file: file.as_fd(), length: file.metadata().unwrap().len() })
            .collect();
        let name = format!("index-{}", fs::read_dir(self.place.path().join("layers")).unwrap().count());
        let index = self.create(&name);
        let little = if self.mounts == Mounts::Absorbed { erofs::LITTLE } else { 0 };
        let devices = erofs::write_image(merged, &files, little, [7; 16], &index).unwrap();
        let devices: Vec<_> = devices.iter().map(usize::to_string).collect();
        self.stacked(index, &devices)
    }
}

impl Subject for Files {
    fn place(&self) -> &Path {
        self.place.path()
    }

    fn namespace(&self) -> OverlayXattrs {
        OverlayXattrs::Trusted
    }

    fn push(&mut self, tar: &[u8]) -> Result<()> {
        let file = self.create(&self.layers.len().to_string());
        let packed = erofs::pack(&mut &*tar, &file, &LayerLimits::default())?;
        packed.seal(&file, [self.layers.len() as u8; 16])?;
        // What an image is made of later must be what it would be made of now.
        let again = erofs::tree_of(&file, packed.tar_size)?;
        assert_eq!(format!("{again:?}"), format!("{:?}", packed.tree));
        let mut archive = vec![0; tar.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut archive, erofs::ARCHIVE).unwrap();
        assert!(archive == tar, "the archive is in the file as it was");
        self.layers.push((file, packed));
        self.merge().map(drop)
    }

    fn layer_stack(&self) -> LayerStack {
        let root = self.layers.iter().rev().find_map(|(_, packed)| packed.facts.root.clone());
        let root = root.map(|attributes| root_attributes(attributes, OverlayXattrs::Trusted)).unwrap_or_default();
        let alone = self.layers.iter().all(|(_, packed)| packed.stands_alone());
        let layers = if self.mounts == Mounts::Each && alone {
            let base = self.layers.iter().rposition(|(_, packed)| packed.facts.opaque_root).unwrap_or(0);
            self.layers[base..].iter().map(|(file, _)| self.stacked(file.try_clone().unwrap(), &[])).collect()
        } else {
            vec![self.merged()]
        };
        LayerStack::new(layers, OverlayXattrs::Trusted, root)
    }

    fn top(&self) -> Option<&Path> {
        None
    }
}
