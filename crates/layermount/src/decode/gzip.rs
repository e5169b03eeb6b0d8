//! gzip with any number of members (RFC 1952, 2.2).
//!
//! `MultiGzDecoder` would refuse the zero padding that some archivers put behind the last member, and `GzDecoder` alone would
//! silently stop after the first; so the members are counted here.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::blob::Blob;

pub(super) struct Members<R: Read> {
    /// Reset at each member's end.
    member: GzDecoder<Blob<R>>,
    /// The member is read to its end, and nothing but padding follows.
    ended: bool,
}

impl<R: Read> Members<R> {
    pub(super) fn new(blob: Blob<R>) -> Self {
        Self { member: GzDecoder::new(blob), ended: false }
    }

    pub(super) fn blob(&self) -> &Blob<R> {
        self.member.get_ref()
    }

    pub(super) fn into_blob(self) -> Blob<R> {
        self.member.into_inner()
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            match self.member.read(buffer)? {
                0 => self.next_member()?,
                count => return Ok(count),
            }
        }
        Ok(0)
    }

    fn next_member(&mut self) -> io::Result<()> {
        match self.member.get_mut().peek(2)? {
            [] => self.ended = true,
            [0, ..] => {
                self.ended = true;
                skip_padding(self.member.get_mut())?;
            }
            [0x1f, 0x8b, ..] => {
                let blob = self.member.get_mut().detach();
                self.member.reset(blob);
            }
            _ => return Err(garbage()),
        }
        Ok(())
    }
}

fn skip_padding<R: Read>(blob: &mut Blob<R>) -> io::Result<()> {
    loop {
        let bytes = blob.fill_buf()?;
        let count = bytes.len();
        match bytes.iter().all(|byte| *byte == 0) {
            true if count == 0 => return Ok(()),
            true => blob.consume(count),
            false => return Err(garbage()),
        }
    }
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "garbage behind the last gzip member")
}
