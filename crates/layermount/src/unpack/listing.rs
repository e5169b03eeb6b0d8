//! The regular files of an unpacked layer with a checksum each, so that damage can be found later.
//!
//! The digest of a layer is of its archive, which cannot be made again from a tree. So what was written is noted while it
//! passes: one line a file, `<CRC-32 in hexadecimal, or - for a file with holes> <size> <path>`, the path from the
//! layer's root with
//! everything but printable ASCII escaped. CRC-32 finds what disks and power cuts do; it is no protection against people who
//! can write to the store.

use std::collections::BTreeMap;
use std::io::Write;
use std::str::FromStr;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub(crate) size: u64,
    /// `None` for a file with holes: reading them all may take longer than anybody would wait.
    pub(crate) checksum: Option<u32>,
}

/// Files by escaped path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) files: BTreeMap<String, FileContent>,
}

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the listing is malformed")]
pub(crate) struct ParseListingError {
    number: usize,
}

impl Listing {
    /// A path as it stands in a listing.
    pub(crate) fn escape(path: &[u8]) -> String {
        path.escape_ascii().to_string()
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        for (path, FileContent { size, checksum }) in &self.files {
            match checksum {
                Some(checksum) => writeln!(to, "{checksum:08x} {size} {path}")?,
                None => writeln!(to, "- {size} {path}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Listing {
    type Err = ParseListingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut files = BTreeMap::new();
        // Not `lines`, which would take a carriage return for a part of the line's end.
        for (index, line) in text.split_terminator('\n').enumerate() {
            let (path, content) = parse_line(line).ok_or(ParseListingError { number: index + 1 })?;
            files.insert(path.to_owned(), content);
        }
        Ok(Self { files })
    }
}

fn parse_line(line: &str) -> Option<(&str, FileContent)> {
    let (checksum, rest) = line.split_once(' ')?;
    let (size, path) = rest.split_once(' ')?;
    let checksum = match checksum {
        "-" => None,
        hex => Some(u32::from_str_radix(hex, 16).ok()?),
    };
    Some((path, FileContent { size: size.parse().ok()?, checksum }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut listing = Listing::default();
        for (path, checksum) in [(&b"etc/a b\nc"[..], Some(7)), (b"\xff\\", None), (b"usr/bin/x", Some(u32::MAX))] {
            listing.files.insert(Listing::escape(path), FileContent { size: 1 << 40, checksum });
        }
        let mut text = Vec::new();
        listing.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(text.parse::<Listing>().unwrap(), listing);
    }

    #[test]
    fn broken_lines_are_named() {
        let error = "00000000 1 a\nzz 1 b".parse::<Listing>().unwrap_err();
        assert_eq!(error.to_string(), "line 2 of the listing is malformed");
        assert!("00000000 a".parse::<Listing>().is_err());
    }
}
