//! The tar reader beside `tar-core`, an independent one.

use tar_core::parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, HeaderError, PaxExtensions};

use super::assert_printable;
use super::bytes::ShortReads;
use super::seen::{self, BLOCK, Seen};
use crate::layer::{Device, Kind};

/// An archive that the reader takes holds the very entries that `tar-core` finds in it: name, type, target, size, mode, owner,
/// time, xattrs, map and data. How the bytes arrive makes no difference. A refusal can be printed.
///
/// Where the two differ on purpose:
///
/// 1. `tar-core` reads numbers that nobody needs (the size of a directory, device numbers of a file, an owner that PAX
///    replaces) and refuses them if they are none; it takes no base-256 in device numbers and checksums.
/// 2. It knows only the sum of unsigned bytes as a checksum, not that of historic writers.
/// 3. It refuses PAX keys that are not UTF-8, times before 1970, and empty owners and times.
/// 4. It takes a header with the magic `ustar\0` and another version than `00` for v7's: without prefix and device numbers, and extended
///    headers are entries. Go and GNU tar do not look at the version.
/// 5. It knows no name prefix under GNU's magic, which Go before 1.8 wrote.
/// 6. It leaves to its caller which types have data. Here those are files, as in Go.
/// 7. It leaves to its caller that a v7 file whose name ends in `/` is a directory.
/// 8. It keeps what follows a NUL in GNU long names.
/// 9. It lists an xattr that is given twice twice.
/// 10. For a sparse file of the PAX form 1.0 with a PAX size, it forgets to take the map off the size.
///
/// Where 2, 4 (extended headers) or 10 comes up, or `tar-core` refuses for 1 or 3, what follows is not compared.
pub fn tar_entries(archive: &[u8]) {
    let whole = seen::read(archive);
    let sum = archive.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let pieces = seen::read(ShortReads::new(archive, sum));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces, "short reads give other entries");
            compare(archive, &whole);
        }
        (Err(whole), Err(pieces)) => {
            assert_printable(&whole);
            assert_eq!(format!("{whole:#}"), format!("{pieces:#}"), "short reads give another error");
        }
        (whole, pieces) => panic!("short reads decide: {whole:?} {pieces:?}"),
    }
}

fn compare(archive: &[u8], ours: &[Seen]) {
    let limits = Limits {
        max_metadata_size: u32::MAX,
        max_path_len: None,
        max_pending_entries: usize::MAX,
        max_sparse_entries: 1_000_000,
    };
    let mut parser = Parser::new(limits);
    parser.set_allow_empty_path(true);
    let mut ours = ours.iter();
    let mut offset = 0;
    loop {
        let rest = &archive[offset..];
        let (consumed, theirs, sparse) = match parser.parse(rest) {
            Ok(ParseEvent::Entry { consumed, entry }) => (consumed, entry, None),
            Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                let map: Vec<(u64, u64)> = sparse_map
                    .iter()
                    .map(|entry| (entry.offset, entry.length))
                    .filter(|(_, length)| *length > 0)
                    .collect();
                (consumed, entry, Some((real_size, map)))
            }
            Ok(ParseEvent::GlobalExtensions { consumed, .. }) => {
                offset += consumed;
                continue;
            }
            Ok(ParseEvent::End { .. }) => break,
            Ok(ParseEvent::NeedData { .. }) => {
                // The end of the stream between two entries, or one block of zeros.
                assert!(rest.len() <= BLOCK && rest.iter().all(|byte| *byte == 0), "tar-core wants more at {offset}");
                break;
            }
            Err(error) => {
                assert!(refuses_on_purpose(&error, archive), "tar-core refuses at {offset}: {error}");
                return;
            }
        };
        if matches!(theirs.entry_type, EntryType::XHeader | EntryType::GnuLongName | EntryType::GnuLongLink) {
            let header = theirs.header;
            assert!(!header.is_ustar() && !header.is_gnu());
            return;
        }
        if sparse.is_some() && is_version_1(&theirs) {
            return;
        }
        let Some(seen) = ours.next() else { panic!("tar-core finds another entry at {offset}: {theirs:?}") };
        offset += consumed;
        check_attributes(seen, &theirs);
        let size = check_kind(seen, &theirs, sparse);
        assert_eq!(archive.get(offset..offset + size), Some(seen.data.as_slice()), "{seen:?}");
        offset = (offset + size.next_multiple_of(BLOCK)).min(archive.len());
    }
    assert!(ours.next().is_none(), "tar-core finds the end at {offset}");
}

fn refuses_on_purpose(error: &ParseError, archive: &[u8]) -> bool {
    match error {
        ParseError::Header(HeaderError::InvalidOctal(_)) | ParseError::InvalidUtf8(_) => true,
        ParseError::Header(HeaderError::ChecksumMismatch { expected, .. }) => {
            archive.chunks_exact(BLOCK).any(|block| historic_sum(block) == i128::from(*expected))
        }
        ParseError::InvalidPaxValue { key, .. } => matches!(*key, "mtime" | "uid" | "gid"),
        _ => false,
    }
}

fn historic_sum(block: &[u8]) -> i128 {
    let counted = |(index, byte): (usize, &u8)| if (148..156).contains(&index) { 32 } else { i128::from(*byte as i8) };
    block.iter().enumerate().map(counted).sum()
}

fn is_version_1(theirs: &ParsedEntry<'_>) -> bool {
    let Some(pax) = theirs.pax.map(PaxExtensions::new) else { return false };
    pax.get("GNU.sparse.major").is_some_and(|major| major.parse() == Ok(1)) && pax.get("size").is_some()
}

fn check_attributes(seen: &Seen, theirs: &ParsedEntry<'_>) {
    let Seen { entry, .. } = seen;
    let path = theirs.path.split(|byte| *byte == 0).next().unwrap_or_default();
    let prefixed = || {
        let bytes = theirs.header.as_bytes();
        let magic = &bytes[257..263];
        let prefix = bytes[345..500].split(|byte| *byte == 0).next().unwrap_or_default();
        !theirs.header.is_ustar()
            && (magic == b"ustar\0" || magic == b"ustar ")
            && entry.name == [prefix, b"/", path].concat()
    };
    assert!(entry.name == path || prefixed(), "{seen:?}\n{theirs:?}");
    let attributes = &entry.attributes;
    assert_eq!(attributes.mode, theirs.mode & 0o7777, "{seen:?}");
    assert_eq!((u64::from(attributes.uid), u64::from(attributes.gid)), (theirs.uid, theirs.gid), "{seen:?}");
    // Before 1970 only in base-256, of which they keep the bits.
    assert_eq!(attributes.mtime.0 as u64, theirs.mtime, "{seen:?}");
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in &theirs.xattrs {
        xattrs.retain(|(earlier, _)| earlier != name.as_ref());
        xattrs.push((name.to_vec(), value.to_vec()));
    }
    assert_eq!(attributes.xattrs, xattrs, "{seen:?}");
}

/// Compares types and all that depends on them. Returns how much data there is for `tar-core`.
fn check_kind(seen: &Seen, theirs: &ParsedEntry<'_>, sparse: Option<(u64, Vec<(u64, u64)>)>) -> usize {
    let target = theirs.link_target.as_deref().unwrap_or_default();
    let target = target.split(|byte| *byte == 0).next().unwrap_or_default();
    let device = || Device { major: theirs.dev_major.unwrap_or_default(), minor: theirs.dev_minor.unwrap_or_default() };
    let is_v7_directory = theirs.header.as_bytes()[156] == 0 && seen.entry.name.ends_with(b"/");
    let same = match (&seen.entry.kind, theirs.entry_type) {
        (Kind::File { size, sparse: map }, EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse) => {
            let map = map.as_ref().map(|map| {
                (*size, map.iter().map(|region| (region.offset, region.length)).collect::<Vec<(u64, u64)>>())
            });
            assert_eq!(map, sparse, "{seen:?}");
            assert!(map.is_some() || *size == theirs.size, "{seen:?}\n{theirs:?}");
            return usize::try_from(theirs.size).expect("as much as is there");
        }
        (Kind::Directory, EntryType::Directory) | (Kind::Fifo, EntryType::Fifo) => true,
        (Kind::Directory, EntryType::Regular) => is_v7_directory,
        (Kind::Symlink(ours), EntryType::Symlink) | (Kind::HardLink(ours), EntryType::Link) => ours == target,
        (Kind::CharDevice(ours), EntryType::Char) | (Kind::BlockDevice(ours), EntryType::Block) => {
            theirs.dev_major.is_none() || *ours == device()
        }
        _ => false,
    };
    assert!(same && sparse.is_none(), "{seen:?}\n{theirs:?}");
    0
}
