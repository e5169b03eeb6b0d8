//! An archive as this crate sees it.

use std::io::{BufRead, BufReader, Read};
use std::ops::Range;

use crate::error::Result;
use crate::layer::{Archive, Entry, LayerLimits};

pub(super) const BLOCK: usize = 512;

#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) entry: Entry,
    pub(super) data: Vec<u8>,
    /// Where its headers lie in the archive, extended ones and the maps of sparse files among them.
    pub(super) headers: Range<usize>,
}

/// All entries with their data.
pub(super) fn read(archive: impl Read) -> Result<Vec<Seen>> {
    let mut archive = Archive::new(BufReader::new(archive), &LayerLimits::default());
    let mut seen = Vec::new();
    let mut start = 0;
    while let Some(entry) = archive.next()? {
        let end = archive.offset() as usize;
        let data = data_of(&mut archive)?;
        let headers = start..end;
        start = end + data.len().next_multiple_of(BLOCK);
        seen.push(Seen { entry, data, headers });
    }
    Ok(seen)
}

/// The data of the entry at hand.
pub(super) fn data_of(archive: &mut Archive<impl BufRead>) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let piece = archive.data()?;
        if piece.is_empty() {
            return Ok(data);
        }
        let count = piece.len();
        data.extend_from_slice(piece);
        archive.consume(count);
    }
}

/// The headers of one entry, taken apart without judging them.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    /// Type flag and data with padding of each extended header.
    pub(super) extended: Vec<(u8, &'a [u8])>,
    /// The entry's own.
    pub(super) own: &'a tar::Header,
}

impl Seen {
    /// The headers in the archive that this entry was read from.
    pub(super) fn headers<'a>(&self, archive: &'a [u8]) -> Headers<'a> {
        let mut rest = &archive[self.headers.clone()];
        let mut extended = Vec::new();
        loop {
            let (block, behind) = rest.split_at(BLOCK);
            let own = tar::Header::from_byte_slice(block);
            let flag = block[156];
            if !matches!(flag, b'x' | b'g' | b'L' | b'K') {
                return Headers { extended, own };
            }
            let size = size_of_data(own) as usize;
            let (data, behind) = behind.split_at(size.next_multiple_of(BLOCK));
            extended.push((flag, data));
            rest = behind;
        }
    }
}

/// The size field of a header that was accepted: octal digits up to a NUL, or base-256. Blank is none.
pub(super) fn size_of_data(header: &tar::Header) -> u64 {
    let field = &header.as_old().size;
    match field[0] & 0x80 {
        0 => (field.iter().take_while(|byte| **byte != 0).filter(|byte| byte.is_ascii_digit()))
            .fold(0, |size, digit| size * 8 + u64::from(digit - b'0')),
        _ => field[4..].iter().fold(0, |size, byte| size << 8 | u64::from(*byte)),
    }
}

impl Headers<'_> {
    pub(super) fn flag(&self) -> u8 {
        self.own.as_bytes()[156]
    }

    /// What stands where ustar has the prefix of a name.
    pub(super) fn prefix(&self) -> &[u8] {
        let prefix = &self.own.as_bytes()[345..500];
        prefix.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}
