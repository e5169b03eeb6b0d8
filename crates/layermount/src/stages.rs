//! Stages of the way from a layer to a mounted image that the API does not show one by one, for benches to measure.
//!
//! This module exists only with the feature `stages`. It is no part of the API, and decides nothing: each function here calls what
//! the store calls, in the same way.

use std::fs::File;
use std::io::BufRead;
use std::os::fd::AsFd;

use crate::decode::{self, DecodeLimits, from_read};
use crate::erofs::{self, LITTLE, LayerFile, Merged, Tree};
use crate::error::{Error, Result, SyscallContext};
use crate::image::Descriptor;
use crate::layer::{Archive, Entry, Fold, LayerError, LayerLimits};

/// Inflates a blob and compares size and digest with its descriptor; the archive is looked at by nobody. Returns its length.
///
/// # Errors
///
/// Whatever the decoder says.
pub fn decode(blob: &[u8], expected: &Descriptor) -> Result<u64> {
    let (read, _) = decode::decode(blob, Some(expected), &DecodeLimits::default(), &mut |archive| read_all(archive))?;
    Ok(read)
}

fn read_all(archive: &mut dyn BufRead) -> Result<u64> {
    let mut read = 0;
    loop {
        let count = archive.fill_buf().map_err(from_read)?.len();
        if count == 0 {
            return Ok(read);
        }
        archive.consume(count);
        read += count as u64;
    }
}

/// The entries of a layer, read in advance.
#[derive(Debug)]
pub struct Entries(Vec<Entry>);

impl Entries {
    /// Reads all headers of an archive.
    ///
    /// # Errors
    ///
    /// Whatever the reader of archives says.
    pub fn read(archive: &[u8]) -> Result<Self> {
        let mut archive = Archive::new(archive, &LayerLimits::default());
        let mut entries = Vec::new();
        while let Some(entry) = archive.next()? {
            entries.push(entry);
        }
        Ok(Self(entries))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Finds out what the layer means. Returns how many directories it has something to say about.
    ///
    /// # Errors
    ///
    /// Whatever the fold says.
    pub fn fold(&self) -> Result<usize> {
        let mut fold = Fold::new(&LayerLimits::default());
        for entry in &self.0 {
            fold.add(entry).map_err(|reason| LayerError::entry(&entry.name, reason))?;
        }
        Ok(fold.finish()?.directories.len())
    }
}

/// A layer as a file that can be mounted, or be a part of an image.
#[derive(Debug)]
pub struct Packed {
    file: File,
    tree: Tree,
    tar_size: u64,
    entries: u64,
}

impl Packed {
    /// Writes an archive, and its index behind it, into an empty file.
    ///
    /// # Errors
    ///
    /// Whatever the writer says.
    pub fn write(mut archive: &[u8], file: File) -> Result<Self> {
        let packed = erofs::pack(&mut archive, &file, &LayerLimits::default())?;
        packed.seal(&file, [1; 16])?;
        Ok(Self { file, tree: packed.tree, tar_size: packed.tar_size, entries: packed.facts.entries })
    }

    /// How many entries the archive has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Reads the tree again, as for an image of layers that are in the store: headers of the archive, folded. Returns how many
    /// inodes it has.
    ///
    /// # Errors
    ///
    /// Whatever the reader says.
    pub fn read_tree(&self) -> Result<usize> {
        Ok(erofs::tree_of(&self.file, self.tar_size)?.inodes().len())
    }
}

/// The tree of an image.
#[derive(Debug)]
pub struct ImageTree(Merged);

impl ImageTree {
    /// Lays the trees of layers over each other, base first.
    ///
    /// # Errors
    ///
    /// Hard links that lead nowhere.
    pub fn merge(layers: &[Packed]) -> Result<Self> {
        let trees: Vec<&Tree> = layers.iter().map(|layer| &layer.tree).collect();
        Ok(Self(erofs::merge(&trees)?))
    }

    /// Writes the index of the image into an empty file; `layers` are those that were merged. Returns how many bytes it has.
    ///
    /// # Errors
    ///
    /// Whatever the writer says.
    pub fn write(self, layers: &[Packed], file: &File) -> Result<u64> {
        let files = layers
            .iter()
            .map(|layer| Ok::<_, Error>(LayerFile { file: layer.file.as_fd(), length: length(&layer.file)? }));
        erofs::write_image(self.0, &files.collect::<Result<Vec<_>>>()?, LITTLE, [2; 16], file)?;
        length(file)
    }
}

fn length(file: &File) -> Result<u64> {
    Ok(rustix::fs::fstat(file).syscall("fstat", || "a layer's file".to_owned())?.st_size.unsigned_abs())
}
