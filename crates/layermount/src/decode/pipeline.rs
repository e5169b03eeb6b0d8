//! Decoding, hashing and using an archive at the same time.
//!
//! ```text
//! this thread                  a second one       a third one
//! blob -> read, hash, inflate ---> diff ID ---> consume
//!              ^                                   |
//!              +----------- empty pieces ----------+
//! ```
//!
//! A fixed number of pieces goes round, so that memory does not grow with the layer and whoever is slower makes the others
//! wait. A stage that ends drops its ends of the channels, at which its neighbours end too, so that an error anywhere stops all.
//! Every thread is joined before the call returns: `unshare(2)` and the like look at the number of threads.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, ScopedJoinHandle, scope};

use super::source::Source;
use super::{DecodeLimits, Decoded, Decoder, PIECE, from_read};
use crate::digest::Hasher;
use crate::error::Result;
use crate::image::Descriptor;

/// Pieces that go round: one in each stage, and one that waits for each.
const PIECES: usize = 6;

/// Has `consume` read the archive in `blob`, then reads what it has left and checks everything as [`Decoder::finish`] does.
///
/// `consume` is called once, on another thread, unless the blob is short or no more threads are to be had.
pub(crate) fn decode<R: Read, T: Send>(
    blob: R,
    expected: Option<&Descriptor>,
    limits: &DecodeLimits,
    consume: &mut (dyn FnMut(&mut dyn BufRead) -> Result<T> + Send),
) -> Result<(T, Decoded)> {
    let mut decoder = Decoder::new(blob, expected, limits)?;
    if !decoder.source.is_short()
        && let Some((consumed, hasher)) = side_by_side(&mut decoder.source, decoder.hasher.clone(), consume)
    {
        return Ok((consumed?, decoder.source.finish(hasher)?));
    }
    let consumed = consume(&mut decoder)?;
    Ok((consumed, decoder.finish()?))
}

/// `None`, and nothing read, if there is no thread to be had.
fn side_by_side<T: Send>(
    source: &mut Source<impl Read>,
    hasher: Option<Hasher>,
    consume: &mut (dyn FnMut(&mut dyn BufRead) -> Result<T> + Send),
) -> Option<(Result<T>, Option<Hasher>)> {
    scope(|scope| {
        let (decoded_in, decoded) = channel();
        let (hashed_in, hashed) = channel();
        let (empty_in, empty) = channel();
        let hashing = Builder::new().spawn_scoped(scope, move || hash(hasher, &decoded, &hashed_in)).ok()?;
        let consuming = Builder::new().spawn_scoped(scope, move || use_all(Pieces::new(hashed, empty_in), consume));
        if consuming.is_ok() {
            fill(source, &empty, &decoded_in);
        }
        drop((empty, decoded_in));
        let hasher = join(hashing);
        Some((join(consuming.ok()?), hasher))
    })
}

fn fill(source: &mut Source<impl Read>, empty: &Receiver<Vec<u8>>, decoded: &Sender<io::Result<Vec<u8>>>) {
    while let Ok(mut piece) = empty.recv() {
        piece.resize(PIECE, 0);
        let filled = source.fill(&mut piece);
        let is_last = filled.as_ref().is_ok_and(|count| *count == 0) || filled.is_err();
        let filled = filled.map(|count| {
            piece.truncate(count);
            piece
        });
        if decoded.send(filled).is_err() || is_last {
            return;
        }
    }
}

fn hash(
    mut hasher: Option<Hasher>,
    decoded: &Receiver<io::Result<Vec<u8>>>,
    hashed: &Sender<io::Result<Vec<u8>>>,
) -> Option<Hasher> {
    for piece in decoded {
        if let (Some(hasher), Ok(piece)) = (&mut hasher, &piece) {
            hasher.update(piece);
        }
        if hashed.send(piece).is_err() {
            break;
        }
    }
    hasher
}

fn use_all<T>(mut pieces: Pieces, consume: &mut dyn FnMut(&mut dyn BufRead) -> Result<T>) -> Result<T> {
    let consumed = consume(&mut pieces)?;
    loop {
        let count = pieces.fill_buf().map_err(from_read)?.len();
        if count == 0 {
            return Ok(consumed);
        }
        pieces.consume(count);
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The archive as it comes out of the second stage.
struct Pieces {
    from: Receiver<io::Result<Vec<u8>>>,
    /// Takes what was used up.
    back: Sender<Vec<u8>>,
    piece: Vec<u8>,
    start: usize,
}

impl Pieces {
    fn new(from: Receiver<io::Result<Vec<u8>>>, back: Sender<Vec<u8>>) -> Self {
        for _ in 1..PIECES {
            let _ = back.send(Vec::new());
        }
        // The one more, which is sent at once.
        Self { from, back, piece: Vec::new(), start: 0 }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.piece.len() {
            self.start = 0;
            // At the archive's end nobody waits for it any more.
            let _ = self.back.send(std::mem::take(&mut self.piece));
            if let Ok(piece) = self.from.recv() {
                self.piece = piece?;
            }
        }
        Ok(self.piece.get(self.start..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.piece.len().min(self.start + count);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::DecodeError;
    use super::*;
    use crate::digest::Digest;
    use crate::error::ErrorKind;

    fn archive(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index / 3) as u8 ^ (index >> 13) as u8).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Counts what was read of a blob, of which there is always more than fits into one buffer.
    struct Counted<'a>(&'a [u8], &'a AtomicU64);

    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1.fetch_add(count as u64, Ordering::Relaxed);
            Ok(count)
        }
    }

    fn pipe<T: Send>(
        blob: &[u8],
        mut consume: impl FnMut(&mut dyn BufRead) -> Result<T> + Send,
    ) -> Result<(T, Decoded)> {
        decode(blob, None, &DecodeLimits::default(), &mut consume)
    }

    #[test]
    fn every_byte_passes_in_order_whatever_the_length() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, PIECES * PIECE + 5, 20 * PIECE] {
            let tar = archive(length);
            let read = |tar: &mut dyn BufRead| {
                let mut bytes = Vec::new();
                tar.read_to_end(&mut bytes).map_err(from_read)?;
                Ok(bytes)
            };
            let (bytes, decoded) = pipe(&gzip(&tar), read).unwrap();
            assert!(bytes == tar, "{length}");
            assert_eq!(decoded.diff_id.0, Digest::sha256(&tar));
            assert_eq!(decoded.tar_size, length as u64);
        }
    }

    #[test]
    fn what_is_not_consumed_counts_all_the_same() {
        let tar = archive(20 * PIECE);
        let blob = gzip(&tar);
        let (first, decoded) = pipe(&blob, |tar| Ok(tar.fill_buf().map_err(from_read)?[0])).unwrap();
        assert_eq!(first, tar[0]);
        assert_eq!(decoded.diff_id.0, Digest::sha256(&tar));
        let cut = pipe(&blob[..blob.len() - 1], |_| Ok(())).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::InvalidLayer, "{cut}");
    }

    #[test]
    fn an_error_of_one_stage_stops_the_others() {
        let blob = gzip(&archive(100 * PIECE));
        let read = AtomicU64::new(0);
        let mut refuse = |tar: &mut dyn BufRead| {
            tar.fill_buf().map_err(from_read)?;
            Err::<(), _>(DecodeError::Compression("nothing").into())
        };
        let error = decode(Counted(&blob, &read), None, &DecodeLimits::default(), &mut refuse).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let read = read.into_inner();
        assert!(read < 20 * PIECE as u64, "{read} bytes were read for nothing");
        let mut broken = blob;
        let middle = broken.len() / 2;
        broken.truncate(middle);
        let all = |tar: &mut dyn BufRead| io::copy(tar, &mut io::sink()).map_err(from_read);
        assert_eq!(pipe(&broken, all).unwrap_err().kind(), ErrorKind::InvalidLayer);
    }

    #[test]
    fn a_panic_is_passed_on() {
        let blob = gzip(&archive(20 * PIECE));
        let run = || pipe(&blob, |_| -> Result<()> { panic!("on purpose") });
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
