//! CRC-32 (ISO 3309, the one of gzip) of files that may be mostly holes.
//!
//! The checksum of what stands behind a hole follows from that of what stands before it without reading zeros: CRCs are
//! polynomials over GF(2) modulo a fixed one, and a byte more multiplies by x⁸. So a sparse file of a terabyte takes as long as
//! its data.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use flate2::Crc;
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread, retry_on_intr};

/// Computes the checksum of a content as it passes.
#[derive(Debug, Default)]
pub(crate) struct Checksum {
    /// Of everything before `run`.
    before: u32,
    /// Bytes since the last hole, and how many.
    run: Crc,
    length: u64,
}

impl Checksum {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.run.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Goes on behind a hole of `length` bytes.
    pub(crate) fn skip(&mut self, length: u64) {
        // The CRC's register holds the complement, and zeros do nothing but shift it.
        let before = !multiply(!self.sum(), power_of_x8(length));
        *self = Self { before, ..Self::default() };
    }

    pub(crate) fn sum(&self) -> u32 {
        multiply(self.before, power_of_x8(self.length)) ^ self.run.sum()
    }
}

/// The checksum of an open file of `size` bytes; `buffer` is for reading.
pub(crate) fn of_file(file: BorrowedFd<'_>, size: u64, buffer: &mut [u8]) -> rustix::io::Result<u32> {
    let mut checksum = Checksum::default();
    add_range(&mut checksum, file, 0..size, buffer)?;
    Ok(checksum.sum())
}

/// Goes on with a part of an open file; `buffer` is for reading.
pub(crate) fn add_range(
    checksum: &mut Checksum,
    file: BorrowedFd<'_>,
    range: Range<u64>,
    buffer: &mut [u8],
) -> rustix::io::Result<()> {
    let Range { start: mut offset, end: size } = range;
    while offset < size {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => size,
            Err(errno) => return Err(errno),
        };
        checksum.skip(start - offset);
        offset = start;
        if offset == size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        while offset < end {
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let count = retry_on_intr(|| pread(file, &mut *piece, offset))?;
            if count == 0 {
                // It became shorter, so that what was read is not its content.
                return Err(Errno::IO);
            }
            checksum.update(piece.get(..count).unwrap_or_default());
            offset += count as u64;
        }
    }
    Ok(())
}

/// x³² + x²⁶ + x²³ + … + 1 without its first term, the highest power in the lowest bit, as CRC-32 has it.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// x⁰.
const ONE: u32 = 1 << 31;
/// x⁸.
const BYTE: u32 = 1 << 23;

/// The product of two polynomials.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for power in (0..32).rev() {
        if a >> power & 1 == 1 {
            product ^= b;
        }
        // b times x.
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// x to the power of eight times `bytes`.
fn power_of_x8(mut bytes: u64) -> u32 {
    let (mut power, mut square) = (ONE, BYTE);
    while bytes > 0 {
        if bytes & 1 == 1 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        bytes >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    fn plain(bytes: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn holes_count_as_zeros() {
        for holes in [[0, 0, 0], [1, 0, 0], [0, 7, 0], [5, 1000, 3], [0, 70_000, 70_001]] {
            let mut bytes = vec![0; holes[0]];
            let mut checksum = Checksum::default();
            checksum.skip(holes[0] as u64);
            for (piece, hole) in [(&b"some data"[..], holes[1]), (b"more", holes[2])] {
                bytes.extend_from_slice(piece);
                bytes.resize(bytes.len() + hole, 0);
                let (first, second) = piece.split_at(3);
                checksum.update(first);
                checksum.update(second);
                checksum.skip(hole as u64);
            }
            assert_eq!(checksum.sum(), plain(&bytes), "{holes:?}");
        }
        assert_eq!(Checksum::default().sum(), plain(b""));
    }

    #[test]
    fn a_sparse_file_has_the_checksum_of_its_bytes() {
        let mut buffer = [0; 1000];
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"start", 0).unwrap();
        file.write_all_at(&[7; 5000], 3 << 20).unwrap();
        file.set_len(8 << 20).unwrap();
        let mut bytes = vec![0; 8 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(of_file(file.as_fd(), 8 << 20, &mut buffer), Ok(plain(&bytes)));
        // Much longer than anybody would read.
        file.set_len(1 << 42).unwrap();
        let long = of_file(file.as_fd(), 1 << 42, &mut buffer).unwrap();
        let mut checksum = Checksum::default();
        checksum.update(&bytes);
        checksum.skip((1 << 42) - (8 << 20));
        assert_eq!(long, checksum.sum());
    }
}
