//! What every unpacker that verifies must do, and nothing else: `inflate-hash-write REFERENCE DIR` inflates each gzip layer,
//! hashes the blob and the archive, compares both with what the image says, and writes the archive as one file.
//!
//! As many layers at once as there are processors, as layermount does it, and in each a second thread that hashes the archive
//! and writes it; the decoders and hashes are those that layermount uses.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use flate2::bufread::MultiGzDecoder;
use layermount::{Blobs, Content, Layer, OciLayouts, Platform, Source};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const BUFFER: usize = 256 << 10;
/// Buffers between the two threads of a layer: enough that neither waits for a scheduler's tick.
const BUFFERS: usize = 8;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(reference), Some(directory)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        return Err("usage: inflate-hash-write oci:DIR[:TAG] DIR".into());
    };
    let image = OciLayouts.resolve(&reference.to_string_lossy().parse()?, &Platform::host())?;
    let Content::Blobs(blobs) = image.content() else { return Err("the image has no blobs".into()) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(image.layers().iter());
    std::thread::scope(|scope| {
        let worker = || {
            loop {
                // The lock must not last as long as the work, so this is no `while let`.
                let Some(layer) = queue.lock().ok().and_then(|mut layers| layers.next()) else { return Ok(()) };
                write_layer(blobs, layer, &directory)?;
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?)
    })
}

fn write_layer(blobs: &Arc<dyn Blobs>, layer: &Layer, directory: &Path) -> Result<()> {
    let descriptor = layer.descriptor.as_ref().ok_or("a layer without a blob")?;
    let blob = Hashed { inner: blobs.open(descriptor)?, hasher: Sha256::new() };
    let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, blob));
    let (full, to_hash) = sync_channel::<Vec<u8>>(BUFFERS);
    let (empty, to_fill) = sync_channel::<Vec<u8>>(BUFFERS);
    let path = directory.join(layer.diff_id.digest().hex());
    let archive = std::thread::scope(|scope| {
        let writer = scope.spawn(move || hash_and_write(&to_hash, &empty, &path));
        let inflated = inflate(&mut decoder, &to_fill, &full);
        drop(full);
        let archive = writer.join().map_err(|_| "a thread panicked")??;
        inflated.map(|()| archive)
    })?;
    let blob = hex::encode(decoder.into_inner().into_inner().hasher.finalize());
    if blob != descriptor.digest().digest() || archive != layer.diff_id.digest().hex() {
        return Err(format!("{} is not what the image says", descriptor.digest()).into());
    }
    Ok(())
}

/// Fills buffers that come back, or new ones until there are [`BUFFERS`].
fn inflate(decoder: &mut impl Read, empty: &Receiver<Vec<u8>>, full: &SyncSender<Vec<u8>>) -> Result<()> {
    let mut made = 0;
    loop {
        let mut buffer = if made < BUFFERS {
            made += 1;
            Vec::with_capacity(BUFFER)
        } else {
            empty.recv()?
        };
        buffer.clear();
        if decoder.by_ref().take(BUFFER as u64).read_to_end(&mut buffer)? == 0 {
            return Ok(());
        }
        full.send(buffer)?;
    }
}

/// Returns the archive's digest.
fn hash_and_write(full: &Receiver<Vec<u8>>, empty: &SyncSender<Vec<u8>>, path: &Path) -> Result<String> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut hasher = Sha256::new();
    for buffer in full {
        hasher.update(&buffer);
        file.write_all(&buffer)?;
        // The other side is gone once everything is inflated.
        let _ = empty.send(buffer);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
