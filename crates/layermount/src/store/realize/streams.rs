//! What passes while a layer is made: its blob on the way in, its archive on the way out.

use std::io::{self, BufRead, Read};
use std::sync::atomic::Ordering;

use super::{LayerEvent, Work};
use crate::error::Error;
use crate::image::Layer;

/// A blob that reports how far it was read, and fails when another layer of the image has failed.
pub(super) struct Watched<'a, R> {
    inner: R,
    work: &'a Work<'a>,
    layer: &'a Layer,
    size: Option<u64>,
    read: u64,
}

impl<'a, R> Watched<'a, R> {
    /// Reports at once, so that every beginning is told, also of a blob that one call reads whole.
    pub(super) fn new(inner: R, work: &'a Work<'a>, layer: &'a Layer, size: Option<u64>) -> Self {
        let watched = Self { inner, work, layer, size, read: 0 };
        watched.tell();
        watched
    }

    fn tell(&self) {
        self.work.options.tell(self.layer, LayerEvent::Unpacking { read: self.read, size: self.size });
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.work.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("given up, because another layer failed"));
        }
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        self.tell();
        Ok(count)
    }
}

/// An archive that counts towards what is unpacked for the image.
pub(super) struct Metered<'a> {
    inner: &'a mut dyn BufRead,
    work: &'a Work<'a>,
    counted: &'a mut u64,
    /// Read since it was last counted.
    more: u64,
}

impl<'a> Metered<'a> {
    /// `counted` is what was counted here, of all that is counted for the image.
    pub(super) fn new(inner: &'a mut dyn BufRead, work: &'a Work<'a>, counted: &'a mut u64) -> Self {
        Self { inner, work, counted, more: 0 }
    }
}

impl BufRead for Metered<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let more = std::mem::take(&mut self.more);
        *self.counted += more;
        self.work.meter(more).map_err(|error| io::Error::other(Error::from(error)))?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.more += count as u64;
        self.inner.consume(count);
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
