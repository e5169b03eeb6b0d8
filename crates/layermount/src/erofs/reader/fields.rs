//! Numbers in structures whose bounds were checked once.

use super::Wrong;

/// A structure in an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8], start: u64, length: u64) -> Result<Self, Wrong> {
        range(bytes, start, length).map(Self)
    }

    /// Nothing where there is no such field: places are constants.
    pub(super) fn bytes(&self, at: usize, length: usize) -> &'a [u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes(at, N).try_into().unwrap_or([0; N])
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.number(at))
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.number(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.number(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.number(at))
    }
}

/// A piece of the image.
pub(super) fn range(bytes: &[u8], start: u64, length: u64) -> Result<&[u8], Wrong> {
    let outside = Wrong("something lies behind the end");
    let end = start.checked_add(length).and_then(|end| usize::try_from(end).ok()).ok_or(outside)?;
    let start = usize::try_from(start).map_err(|_| outside)?;
    bytes.get(start..end).ok_or(outside)
}
