//! The regular files of an unpacked layer with a checksum each, so that damage can be found later.
//!
//! The digest of a layer is of its archive, which cannot be made again from a tree. So what was written is noted while it
//! passes: one line a file in no order, `<CRC-32 in hexadecimal> <size> <path>`, the path from the
//! layer's root with everything but printable ASCII escaped. CRC-32 finds what disks and power cuts do; it is no protection against
//! people who can write to the store.

use std::io::{self, BufRead, Read, Write};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub(crate) size: u64,
    /// CRC-32.
    pub(crate) checksum: u32,
}

/// A listing that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadListingError {
    #[error("line {number} of the listing is malformed")]
    Malformed { number: u64 },
    #[error("the listing cannot be read")]
    Read(#[from] io::Error),
}

/// The longest line: every byte of the longest path escaped, with room for the numbers.
const LINE_MAX: u64 = 4 * 4096 + 64;

/// A path as it stands in a listing.
pub(crate) fn escape(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

/// Writes the line of one file.
pub(crate) fn write_line(to: &mut dyn Write, path: &[u8], content: FileContent) -> io::Result<()> {
    let FileContent { size, checksum } = content;
    writeln!(to, "{checksum:08x} {size} {}", path.escape_ascii())
}

/// The path that stands in a listing as `escaped`.
pub(crate) fn unescape(escaped: &str) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'\\' => match bytes.next()? {
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'x' => {
                    let mut byte = [0];
                    hex::decode_to_slice([bytes.next()?, bytes.next()?], &mut byte).ok()?;
                    byte[0]
                }
                plain @ (b'\\' | b'\'' | b'"') => plain,
                _ => return None,
            },
            // As `escape` writes them, and nothing else.
            plain @ (b' '..=b'~') if !matches!(plain, b'\'' | b'"') => plain,
            _ => return None,
        });
    }
    Some(path)
}

/// Shows every path, escaped, with what its file holds to `see`, one at a time: a listing may be long.
pub(crate) fn read<E: From<ReadListingError>>(
    mut from: impl BufRead,
    mut see: impl FnMut(&str, FileContent) -> Result<(), E>,
) -> Result<(), E> {
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if from.by_ref().take(LINE_MAX).read_line(&mut line).map_err(ReadListingError::from)? == 0 {
            break;
        }
        let whole = line.strip_suffix('\n');
        let (path, content) = whole.and_then(parse_line).ok_or(ReadListingError::Malformed { number })?;
        see(path, content)?;
    }
    Ok(())
}

fn parse_line(line: &str) -> Option<(&str, FileContent)> {
    let (checksum, rest) = line.split_once(' ')?;
    let (size, path) = rest.split_once(' ')?;
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    Some((path, FileContent { size: size.parse().ok()?, checksum }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &[u8]) -> Result<Vec<(String, FileContent)>, ReadListingError> {
        let mut files = Vec::new();
        read(text, |path, content| {
            files.push((path.to_owned(), content));
            Ok(())
        })
        .map(|()| files)
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (mut files, mut text) = (Vec::new(), Vec::new());
        for (path, checksum) in [(&b"etc/a b\nc"[..], 7), (b"\xff\\", 0), (b"usr/bin/x", u32::MAX)] {
            let content = FileContent { size: 1 << 40, checksum };
            write_line(&mut text, path, content).unwrap();
            files.push((escape(path), content));
        }
        assert_eq!(text.split(|byte| *byte == b'\n').count(), 3 + 1);
        assert_eq!(read_all(&text).unwrap(), files);
    }

    #[test]
    fn every_byte_comes_back() {
        let path: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&path)).unwrap(), path);
        for bad in ["\\", "\\x", "\\x0", "\\xzz", "\\q", "\u{e9}", "\t", "'", "\""] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    #[test]
    fn broken_lines_are_named() {
        let error = read_all(b"00000000 1 a\nzz 1 b\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2 of the listing is malformed");
        for bad in [&b"00000000 a\n"[..], b"00000000 1 cut shor", b"\xff\n", &[b'x'; 1 << 20]] {
            read_all(bad).unwrap_err();
        }
    }
}
