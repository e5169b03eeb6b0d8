//! The compressed side: reads the blob, counts and hashes it.

use std::io::{self, BufRead, Read};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::image::Descriptor;

use super::DecodeError;

/// Inflating in smaller pieces costs up to a quarter more time.
pub(super) const BUFFER: usize = 256 << 10;

/// A blob under a descriptor, read through one buffer. No more is given out than the size that the descriptor states.
pub(super) struct Blob<R> {
    /// `None` in the place of a blob that was moved out.
    source: Option<R>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes taken from the source so far.
    read: u64,
    expected: Option<Expected>,
    ended: bool,
}

struct Expected {
    size: u64,
    digest: Digest,
    hasher: Hasher,
}

impl<R: Read> Blob<R> {
    pub(super) fn new(source: R, descriptor: Option<&Descriptor>) -> Result<Self> {
        let expected = match descriptor {
            None => None,
            Some(descriptor) => {
                let digest = Digest::try_from(descriptor.digest())?;
                Some(Expected { size: descriptor.size(), hasher: Hasher::new(digest.algorithm()), digest })
            }
        };
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { source: Some(source), buffer, start: 0, end: 0, read: 0, expected, ended: false })
    }

    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.expected.as_ref().map(|expected| expected.digest.algorithm())
    }

    /// Moves the blob out of its place, which then is at its end.
    pub(super) fn detach(&mut self) -> Self {
        let nothing =
            Self { source: None, buffer: Box::default(), start: 0, end: 0, read: 0, expected: None, ended: true };
        std::mem::replace(self, nothing)
    }

    /// Bytes of the blob that were handed on.
    pub(super) fn taken(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// Whether the source has nothing more to give.
    pub(super) fn has_all(&self) -> bool {
        self.ended || self.expected.as_ref().is_some_and(|expected| expected.size == self.read)
    }

    /// The next bytes without taking them: `length` of them unless the blob ends before.
    pub(super) fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        while self.end - self.start < length && !self.ended {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            self.refill()?;
        }
        Ok(self.buffered())
    }

    /// An error if the source has ended before the descriptor's size was reached.
    pub(super) fn check_short(&self) -> Result<(), DecodeError> {
        match &self.expected {
            Some(Expected { size, .. }) if self.ended && self.read < *size => {
                Err(DecodeError::Short { expected: *size, found: self.read })
            }
            _ => Ok(()),
        }
    }

    /// Compares size and digest; the source must have been read to its end.
    pub(super) fn verify(self) -> Result<(u64, Option<Digest>)> {
        self.check_short()?;
        let Some(Expected { digest: expected, hasher, .. }) = self.expected else { return Ok((self.read, None)) };
        let found = hasher.finish();
        if found != expected {
            return Err(DecodeError::Digest { expected, found }.into());
        }
        Ok((self.read, Some(found)))
    }

    fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads once into the free end of the buffer.
    fn refill(&mut self) -> io::Result<()> {
        let (Some(source), Some(free)) = (&mut self.source, self.buffer.get_mut(self.end..)) else { return Ok(()) };
        let count = loop {
            match source.read(free) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.ended = count == 0;
        self.read += count as u64;
        if let Some(expected) = &mut self.expected {
            if self.read > expected.size {
                return Err(io::Error::other(Error::from(DecodeError::Long { expected: expected.size })));
            }
            expected.hasher.update(free.get(..count).unwrap_or_default());
        }
        self.end += count;
        Ok(())
    }
}

impl<R: Read> BufRead for Blob<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.ended {
            (self.start, self.end) = (0, 0);
            self.refill()?;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}
