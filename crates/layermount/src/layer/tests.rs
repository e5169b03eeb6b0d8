use std::io::{BufReader, Read};

use layermount_fixtures::case;
use serde_json::{Value, json};

use super::*;
use crate::error::Result;

/// Entries with their data.
fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    read_with(tar, &LayerLimits::default())
}

fn read_with(tar: impl Read, limits: &LayerLimits) -> Result<Vec<(Entry, Vec<u8>)>> {
    // No multiple of a block, so that pieces end anywhere.
    let mut archive = Archive::new(BufReader::with_capacity(1000, tar), limits);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut data = Vec::new();
        while let piece @ [_, ..] = archive.data()? {
            let count = piece.len().min(700);
            data.extend_from_slice(&piece[..count]);
            archive.consume(count);
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn archive(entries: Value) -> Vec<u8> {
    case::archive(entries.as_array().unwrap(), "").unwrap()
}

fn three() -> Vec<u8> {
    archive(json!([
        {"name": "a", "type": "file", "content": "x".repeat(600)},
        {"name": "n".repeat(150), "type": "dir", "xattrs": {"user.a": "b"}},
        {"name": "c", "type": "symlink", "linkname": "a"},
    ]))
}

/// One byte at a time.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn an_archive_cut_anywhere_is_whole_only_between_entries() {
    let tar = three();
    let whole = read(&tar).unwrap();
    assert_eq!(whole.len(), 3);
    assert_eq!(whole, read_with(Dribble(&tar), &LayerLimits::default()).unwrap());
    // After the first entry's data, after the second's extended header and header, after the third.
    let boundaries = [0, 1536, 3072, 3584];
    assert_eq!(tar.len(), 4608);
    for length in 0..tar.len() {
        let result = read(&tar[..length]);
        match boundaries.iter().position(|boundary| *boundary == length) {
            Some(entries) => assert_eq!(result.unwrap(), whole[..entries], "{length}"),
            // One block of zeros, or one and the end of the stream: everything was there.
            None if length == 4096 => assert_eq!(result.unwrap(), whole),
            None => assert!(result.is_err(), "{length}"),
        }
    }
}

#[test]
fn a_newline_in_an_xattr_names_no_link() {
    let tar = archive(json!([
        {"name": "l", "type": "symlink", "linkname": "harmless", "xattrs": {"user.a": "x\n22 linkpath=/etc/evil\n"}}
    ]));
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].0.kind, Kind::Symlink(b"harmless".to_vec()));
    assert_eq!(entries[0].0.attributes.xattrs[0].1, b"x\n22 linkpath=/etc/evil\n");
}

fn pax(records: &[(&str, &str)]) -> String {
    (records.iter())
        .map(|(key, value)| {
            let body = format!(" {key}={value}\n");
            let digits = if body.len() + 1 < 10 {
                1
            } else if body.len() + 2 < 100 {
                2
            } else {
                3
            };
            format!("{}{body}", body.len() + digits)
        })
        .collect()
}

fn sparse(records: &[(&str, &str)], data: &str) -> Vec<u8> {
    case::raw(&[
        json!({"hdr": {"name": "pax", "type": "x", "data": pax(records)}}),
        json!({"hdr": {"name": "raw", "type": "0", "data": data}}),
        json!({"zeros": 1024}),
    ])
    .unwrap()
}

#[test]
fn the_pax_forms_of_sparse_files() {
    let regions = vec![Region { offset: 100, length: 2 }, Region { offset: 500, length: 1 }];
    let map_1_0 = format!("2\n100\n2\n500\n1\n{}abc", "\0".repeat(512 - 14));
    let forms = [
        (
            sparse(
                &[
                    ("GNU.sparse.size", "1000"),
                    ("GNU.sparse.numblocks", "2"),
                    ("GNU.sparse.offset", "100"),
                    ("GNU.sparse.numbytes", "2"),
                    ("GNU.sparse.offset", "500"),
                    ("GNU.sparse.numbytes", "1"),
                ],
                "abc",
            ),
            "raw",
        ),
        (
            sparse(
                &[
                    ("GNU.sparse.size", "1000"),
                    ("GNU.sparse.numblocks", "3"),
                    ("GNU.sparse.map", "100,2,500,1,1000,0"),
                    ("GNU.sparse.name", "real"),
                ],
                "abc",
            ),
            "real",
        ),
        (
            sparse(
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "real"),
                    ("GNU.sparse.realsize", "1000"),
                ],
                &map_1_0,
            ),
            "real",
        ),
    ];
    for (tar, name) in forms {
        let entries = read(&tar).unwrap();
        let [(entry, data)] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(entry.name, name.as_bytes());
        assert_eq!(entry.kind, Kind::File { size: 1000, sparse: Some(regions.clone()) });
        assert_eq!(data, b"abc");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let map = |size: &str, map: &str| sparse(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)], "abc");
    assert!(read(&map("10", "0,3")).is_ok());
    for (size, regions) in [
        ("10", "0,2"),
        ("10", "0,4"),
        ("10", "5,2,4,1"),
        ("10", "0,2,1,1"),
        ("2", "0,3"),
        ("10", "9,3"),
        ("10", "0"),
        ("10", "-1,3"),
        ("10", "9223372036854775807,3"),
        ("9223372036854775808", "0,3"),
    ] {
        assert!(read(&map(size, regions)).is_err(), "{size} {regions}");
    }
    let limits = LayerLimits { sparse_regions: 2, ..LayerLimits::default() };
    let many = map("10", "0,1,1,1,2,1");
    assert!(read(&many).is_ok());
    let error = read_with(&many[..], &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let endless = sparse(
        &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")],
        &"9".repeat(2048),
    );
    assert!(read(&endless).is_err());
}

#[test]
fn limits_hold() {
    let tar = three();
    for limits in [
        LayerLimits { entries: 2, ..LayerLimits::default() },
        LayerLimits { extension_bytes: 100, ..LayerLimits::default() },
        LayerLimits { xattrs: 0, ..LayerLimits::default() },
        LayerLimits { xattr_bytes: 0, ..LayerLimits::default() },
    ] {
        let error = read_with(&tar[..], &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    }
    // A long name of 1 GiB is refused by its header, not read.
    let huge = case::raw(&[json!({"hdr": {"name": "x", "type": "L", "magic": "gnu", "size": 1 << 30}})]).unwrap();
    assert_eq!(read(&huge).unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn messages_cannot_drive_a_terminal() {
    let tar = archive(json!([{"name": "../\u{1b}[31m\n", "type": "file"}]));
    let (entry, _) = read(&tar).unwrap().remove(0);
    let refusal = Fold::new(&LayerLimits::default()).add(&entry).unwrap_err();
    let text = LayerError::entry(&entry.name, refusal).to_string();
    assert_eq!(text, r#"entry "../\u{1b}[31m\n": its name leads out of the layer"#);
}

#[test]
fn numbers_in_octal_and_base_256() {
    let signed = |field: &[u8]| header::signed(field);
    assert_eq!(signed(b"0000644\0"), Some(0o644));
    assert_eq!(signed(b"  644 \0"), Some(0o644));
    assert_eq!(signed(b"\0\0\0\0"), Some(0));
    assert_eq!(signed(b"-644\0"), None);
    assert_eq!(signed(b"0x10\0"), None);
    assert_eq!(signed(b"64 4\0"), None);
    assert_eq!(signed(b"777777777777777777777777"), None);
    assert_eq!(signed(&[0x80, 0, 0, 0, 1, 0, 0, 0]), Some(1 << 24));
    assert_eq!(signed(&[0xff; 12]), Some(-1));
    assert_eq!(signed(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
}

/// The same listing as `tar-core`, an independent reader, for archives that the `tar` crate writes.
#[test]
fn tar_core_sees_the_same_entries() {
    use tar_core::parse::{Limits, ParseEvent, Parser};
    let mut builder = tar::Builder::new(Vec::new());
    for (index, length) in [1_usize, 99, 100, 101, 155, 256, 300].into_iter().enumerate() {
        let mut name = "d/".repeat(length / 2);
        name.push_str(&"n".repeat(length % 2 + 1));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640 + index as u32);
        header.set_uid(1 << (4 * index));
        header.set_mtime(1_700_000_000);
        header.set_size(length as u64);
        builder.append_data(&mut header, &name, &vec![b'x'; length][..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, format!("l{index}"), &name).unwrap();
    }
    let tar = builder.into_inner().unwrap();
    let ours: Vec<_> = (read(&tar).unwrap().into_iter())
        .map(|(entry, data)| (entry.name, entry.attributes.mode, u64::from(entry.attributes.uid), data.len() as u64))
        .collect();
    let mut theirs = Vec::new();
    let mut parser = Parser::new(Limits::default());
    let mut rest = &tar[..];
    loop {
        match parser.parse(rest).unwrap() {
            ParseEvent::Entry { consumed, entry } => {
                theirs.push((entry.path.to_vec(), entry.mode, entry.uid, entry.size));
                rest = &rest[consumed + entry.padded_size() as usize..];
            }
            ParseEvent::End { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ours, theirs);
}
