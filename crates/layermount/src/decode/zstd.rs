//! Zstandard with any number of frames, skippable ones among them (RFC 8878).

use std::io::{self, Read};

use zstd::stream::read::Decoder;

use super::blob::Blob;

/// Frames may ask for a window of up to 128 MiB, as `zstd --long=27` writes and the specification's decoders must expect.
const WINDOW_LOG: u32 = 27;

pub(super) struct Frames<R: Read>(Decoder<'static, Blob<R>>);

impl<R: Read> Frames<R> {
    pub(super) fn new(blob: Blob<R>) -> io::Result<Self> {
        let mut decoder = Decoder::with_buffer(blob)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self(decoder))
    }

    pub(super) fn blob(&self) -> &Blob<R> {
        self.0.get_ref()
    }

    pub(super) fn into_blob(self) -> Blob<R> {
        self.0.finish()
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
