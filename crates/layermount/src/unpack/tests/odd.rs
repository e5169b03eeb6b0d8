//! Odd layers of every class that the cases have examples of.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use layermount_fixtures::{Entry, Kind, Layer, case, sha256};
use serde_json::{Value, json};

use super::archives::decode;
use super::files::Files;
use super::recipes::World;
use super::*;
use crate::Store;
use crate::store::{Backing, RealizeOptions};

fn tar(entries: Value) -> Vec<u8> {
    case::archive(entries.as_array().unwrap(), "").unwrap()
}

fn of(entries: Vec<Entry>) -> Vec<u8> {
    Layer { entries, ..Layer::default() }.tar().unwrap()
}

fn file(name: impl Into<Vec<u8>>) -> Entry {
    Entry::new(name, Kind::File(Vec::new()), 0o644)
}

fn push(stack: &mut Stack, blob: &[u8]) -> Result<Unpacked> {
    stack.push(&decode(blob)?)
}

#[track_caller]
fn refuses(blob: &[u8], why: &str) {
    let error = push(&mut Stack::new(options(OverlayXattrs::User)), blob).expect_err(why);
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::InvalidLayer | ErrorKind::LimitExceeded), "{why}: {kind:?}: {error:#}");
}

#[track_caller]
fn takes(blob: &[u8]) -> Stack {
    let mut stack = Stack::new(options(OverlayXattrs::User));
    push(&mut stack, blob).unwrap();
    stack
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With a checksum, as the command `zstd` writes.
#[cfg(feature = "zstd")]
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn three() -> Vec<u8> {
    tar(json!([
        {"name": "a", "type": "file", "content": "x".repeat(600)},
        {"name": "n".repeat(150), "type": "dir", "xattrs": {"user.a": "b"}},
        {"name": "c", "type": "symlink", "linkname": "a"},
    ]))
}

fn compressed() -> Vec<Vec<u8>> {
    let mut blobs = vec![gzip(&three()), [gzip(&three()[..700]), gzip(&three()[700..])].concat()];
    #[cfg(feature = "zstd")]
    blobs.push(zstd(&three()));
    blobs
}

#[test]
fn a_blob_cut_anywhere_is_refused() {
    for blob in compressed() {
        takes(&blob);
        for length in 1..blob.len() {
            // The archive is whole where only later members or frames are cut off: those of the second blob.
            if decode(&blob[..length]).is_ok_and(|tar| tar.len() < three().len() && tar.len() == 700) {
                refuses(&blob[..length], &format!("the first member alone, {length} bytes"));
                continue;
            }
            refuses(&blob[..length], &format!("{length} of {} bytes", blob.len()));
        }
    }
}

#[test]
fn a_blob_with_any_bit_of_its_end_flipped_is_refused() {
    for blob in compressed() {
        // CRC and length of gzip, the checksum of zstd.
        let end = if blob.starts_with(&[0x1f]) { 8 } else { 4 };
        for place in blob.len() - end..blob.len() {
            for bit in 0..8 {
                let mut flipped = blob.clone();
                flipped[place] ^= 1 << bit;
                refuses(&flipped, &format!("bit {bit} of byte {place}"));
            }
        }
    }
}

#[test]
fn what_stands_behind_compressed_data_is_looked_at() {
    for blob in compressed() {
        if blob.starts_with(&[0x1f]) {
            takes(&[&blob[..], &[0; 1000]].concat());
        }
        refuses(&[&blob[..], b"garbage"].concat(), "garbage");
        refuses(&[&blob[..], &[0; 600], b"garbage"].concat(), "garbage behind zeros");
        refuses(&[&blob[..], b"\x1f\x8b"].concat(), "the start of a member");
        refuses(&[&blob[..], b"\x28\xb5\x2f\xfd"].concat(), "the start of a frame");
    }
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_dictionaries_are_refused() {
    let mut blob = zstd(&three());
    // Frame_Header_Descriptor: a dictionary ID of one byte, which follows the window descriptor where there is one.
    assert_eq!(blob[4] & 3, 0);
    blob[4] |= 1;
    let place = if blob[4] & 0x20 == 0 { 6 } else { 5 };
    blob.insert(place, 7);
    refuses(&blob, "a dictionary");
}

#[test]
fn numbers_that_are_none_are_refused() {
    let records = |text: &str| {
        let record = |mut length: usize| {
            while format!("{length} {text}\n").len() != length {
                length += 1;
            }
            format!("{length} {text}\n")
        };
        case::raw(&[
            json!({"hdr": {"name": "pax", "type": "x", "data": record(text.len() + 3)}}),
            json!({"hdr": {"name": "f", "type": "0"}}),
            json!({"zeros": 1024}),
        ])
        .unwrap()
    };
    for key in ["uid", "gid", "size"] {
        takes(&records(&format!("{key}=0")));
        for number in ["+2", "-2", "0x2", "4294967296000000000000000", "18446744073709551616", "1 ", "1.5", "x"] {
            refuses(&records(&format!("{key}={number}")), &format!("{key}={number}"));
        }
    }
    for id in ["4294967295", "4294967296"] {
        refuses(&records(&format!("uid={id}")), id);
        refuses(&records(&format!("gid={id}")), id);
    }
    for time in ["x", "1.x", "--1", "1e3", "0x1"] {
        refuses(&records(&format!("mtime={time}")), time);
    }
    for time in ["-1.5", "0.0000000001", "9223372036854775807", "-2147483648", "8589934592.999999999"] {
        takes(&records(&format!("mtime={time}")));
    }
}

#[test]
fn malformed_pax_records_are_refused() {
    let mut accepted = Vec::new();
    for bad in [
        "",
        "0",
        "5",
        "5 a=",
        "0 a=b\n",
        "6 a=b",
        "99 a=b\n",
        "6 a=bc",
        "6 ab c\n",
        "x a=b\n",
        "-6 a=b\n",
        "+6 a=b\n",
        "5 =b\n",
        "18446744073709551616 a=b\n",
        "4294967302 a=b\n",
        "06 path=\0\n",
        "9 path=\0\n",
        "12 path=a\0b\n",
        "16 linkpath=a\0\n",
        "7 a=b\n6 a=b\n",
    ] {
        let blob = case::raw(&[
            json!({"hdr": {"name": "pax", "type": "x", "data": bad}}),
            json!({"hdr": {"name": "f", "type": "0"}}),
            json!({"zeros": 1024}),
        ])
        .unwrap();
        // An empty header says nothing.
        if bad.is_empty() {
            takes(&blob);
        } else if push(&mut Stack::new(options(OverlayXattrs::User)), &blob).is_ok() {
            accepted.push(bad);
        }
    }
    assert_eq!(accepted, [""; 0]);
}

#[test]
fn unknown_types_are_refused() {
    for flag in ["D", "M", "V", "A", "X", "N", "8", "9", "a", "Z", "\u{7f}"] {
        let blob = case::raw(&[
            json!({"hdr": {"name": "f", "type": flag, "data": "x".repeat(512)}}),
            json!({"hdr": {"name": "g", "type": "0"}}),
            json!({"zeros": 1024}),
        ])
        .unwrap();
        refuses(&blob, flag);
    }
}

#[test]
fn symlink_targets_of_any_length_that_linux_takes() {
    for length in [1, 100, 101, 1000, 4095] {
        let target = "t".repeat(length);
        let stack = takes(&tar(json!([{"name": "l", "type": "symlink", "linkname": target}])));
        assert_eq!(fs::read_link(stack.top().join("l")).unwrap(), Path::new(&target));
    }
    refuses(&tar(json!([{"name": "l", "type": "symlink", "linkname": "t".repeat(4096)}])), "4096 bytes");
}

/// The class of CPython's CVE-2025-4517: each link is short, and what they lead to is longer than `PATH_MAX`.
#[test]
fn chains_of_symlinks_end() {
    let long = "d".repeat(247);
    let mut entries = Vec::new();
    let mut path = String::new();
    for step in "abcdefghijklmnop".chars() {
        entries.push(json!({"name": format!("{path}{long}"), "type": "dir"}));
        entries.push(json!({"name": format!("{path}{step}"), "type": "symlink", "linkname": long}));
        path = format!("{path}{step}/");
    }
    entries
        .push(json!({"name": format!("{path}{}", "l".repeat(254)), "type": "symlink", "linkname": "../".repeat(16)}));
    entries.push(
        json!({"name": "escape", "type": "symlink", "linkname": format!("{path}{}/../../../../etc", "l".repeat(254))}),
    );
    entries.push(json!({"name": "escape/passwd", "type": "file", "content": "x"}));
    let before = fs::metadata("/etc/passwd").unwrap();
    let mut stack = Stack::new(options(OverlayXattrs::User));
    if let Err(error) = stack.push(&tar(json!(entries))) {
        assert!(matches!(error.kind(), ErrorKind::InvalidLayer | ErrorKind::LimitExceeded), "{error:#}");
    }
    let after = fs::metadata("/etc/passwd").unwrap();
    assert_eq!((before.ino(), before.ctime(), before.len()), (after.ino(), after.ctime(), after.len()));
}

#[test]
fn anything_replaces_anything() {
    let things = [
        json!({"type": "file", "content": "x"}),
        json!({"type": "dir", "mode": "0711"}),
        json!({"type": "symlink", "linkname": "elsewhere"}),
        json!({"type": "fifo"}),
        json!({"type": "hardlink", "linkname": "twin"}),
    ];
    let named = |thing: &Value| {
        let mut thing = thing.clone();
        thing["name"] = "t".into();
        thing
    };
    let twin = json!({"name": "twin", "type": "file", "content": "twin"});
    for first in &things {
        for second in &things {
            let mut within = vec![twin.clone(), named(first)];
            if first["type"] == "dir" {
                within.push(json!({"name": "t/child", "type": "file"}));
            }
            within.push(named(second));
            let stack = takes(&tar(json!(within)));
            let kind = |path: &Path| {
                let stat = fs::symlink_metadata(path).unwrap();
                (stat.is_dir(), stat.is_symlink(), stat.is_file())
            };
            let wanted = second["type"].as_str().unwrap();
            let is_file = matches!(wanted, "file" | "hardlink");
            assert_eq!(
                kind(&stack.top().join("t")),
                (wanted == "dir", wanted == "symlink", is_file),
                "{first} {second}"
            );
            // Never written in place: the other name keeps what it had.
            assert_eq!(fs::read(stack.top().join("twin")).unwrap(), b"twin", "{first} {second}");
            let child = stack.top().join("t/child").exists();
            assert_eq!(child, first["type"] == "dir" && wanted == "dir", "{first} {second}");
        }
    }
}

#[test]
fn names_of_any_length_that_linux_takes() {
    for length in [100, 101, 155, 156, 250, 251, 252, 253, 254, 255] {
        let name = vec![b'n'; length];
        let mut stack = takes(&of(vec![file(name.clone())]));
        push(&mut stack, &of(vec![file([b".wh.", &name[..]].concat())])).unwrap();
        if is_root() {
            assert_eq!(stack.mount().listing().len(), 0, "{length}");
        }
    }
    refuses(&of(vec![file(vec![b'n'; 256])]), "256 bytes");
    refuses(&of(vec![file([b".wh.", &[b'n'; 256][..]].concat())]), "a whiteout of 256 bytes");
    refuses(&of(vec![file([&[b'n'; 256][..], b"/x"].concat())]), "a directory of 256 bytes");
    for odd in [&b"\xff\xfe"[..], b"a\nb", b"\x1b[31m", b"a:b", b"a,b", b"a\\b", b" ", b"...", b"\x7f", b"*"] {
        let stack = takes(&of(vec![file(odd)]));
        assert_eq!(fs::read_dir(stack.top()).unwrap().count(), 1);
    }
}

#[test]
fn paths_of_any_depth() {
    // As deep as the limit, with the longest path there is.
    takes(&of(vec![file("d/".repeat(1023) + "f")]));
    takes(&of(vec![file("dddd/".repeat(818) + "fffff")]));
    for depth in [1025, 3000, 100_000] {
        refuses(&of(vec![file("d/".repeat(depth) + "f")]), "depth");
        // Whiteouts and links too, and step by step through symlinks.
        refuses(&of(vec![file("d/".repeat(depth) + ".wh.f")]), "depth of a whiteout");
        refuses(&of(vec![Entry::new("l", Kind::Hardlink("d/".repeat(depth).into()), 0o644)]), "depth of a link");
    }
    refuses(&of(vec![file("dddd/".repeat(1000) + "f")]), "bytes");
}

#[test]
fn a_hundred_thousand_whiteouts() {
    let entries = (0..100_000).map(|number| file(format!("d/.wh.{number:06}"))).collect();
    let mut stack = takes(&of(vec![file("d/000007"), file("d/kept")]));
    push(&mut stack, &of(entries)).unwrap();
    assert_eq!(fs::read_dir(stack.top().join("d")).unwrap().count(), 100_000);
    if is_root() {
        assert_eq!(stack.mount().listing().into_keys().collect::<Vec<_>>(), [b"d/".to_vec(), b"d/kept".to_vec()]);
    }
}

#[test]
fn sparse_files_of_any_size_take_no_room() {
    let sparse = |size: &str| {
        let record = format!("GNU.sparse.realsize={size}\n");
        let length = (record.len()..).find(|length| format!("{length} {record}").len() == *length).unwrap();
        case::raw(&[
            json!({"hdr": {"name": "pax", "type": "x",
                "data": format!("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n{length} {record}")}}),
            json!({"hdr": {"name": "f", "type": "0", "data": format!("0\n{}", "\0".repeat(510))}}),
            json!({"zeros": 1024}),
        ])
        .unwrap()
    };
    let stack = takes(&sparse("64424509440"));
    let stat = fs::metadata(stack.top().join("f")).unwrap();
    assert!(stat.len() == 60 << 30 && stat.blocks() < 100, "{stat:?}");
    refuses(&sparse("18446744073709551615"), "a size beyond 2^63");
}

/// Whatever is refused is named, and the store is as it was.
#[test]
fn refused_layers_are_named_and_leave_the_store_as_it_was() {
    for backing in [Backing::Directory, Backing::Erofs] {
        if backing == Backing::Directory || Files::can_be_mounted() {
            refused_in(backing);
        }
    }
}

fn refused_in(backing: Backing) {
    let world = World::new();
    let options = RealizeOptions::default().backing(backing);
    let (store, _stack) = world.realize_as(backing, "store");
    let names = |store: &Store| store.layers().unwrap().into_iter().map(|layer| layer.name).collect::<Vec<_>>();
    let before = names(&store);
    assert_eq!(before.len(), 3);
    let mut known = Vec::new();
    for (entries, says) in [
        (json!([{"name": "fine", "type": "file"}, {"name": "../x", "type": "file"}]), "\"../x\": its name leads out"),
        (
            json!([{"name": "fine", "type": "file"}, {"name": "a/.wh..", "type": "file"}]),
            "\"a/.wh..\": a whiteout of no name",
        ),
        (json!([{"name": "c", "type": "char"}]), "\"c\": a character device 0:0"),
        (json!([{"name": "l", "type": "hardlink", "linkname": "nothing"}]), "\"l\" has no target \"nothing\""),
        (json!([{"name": "f", "type": "file"}, {"name": "f/x", "type": "file"}]), "\"f/x\": it lies under something"),
        (json!([{"name": "\u{1b}[2J/../../x", "type": "file"}]), "\\u{1b}[2J"),
    ] {
        let blob = tar(entries);
        let error = store.realize_with(&world.with_layer(&blob), &options).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidLayer), "{error:#}");
        let text = format!("{error:#}");
        assert!(text.contains(says) && text.contains(sha256(&blob).as_str()), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let left = names(&store);
        // A layer that is sound by itself, and only dangles over these, is kept until somebody needs it.
        let sound = says.contains("has no target");
        let kept = if backing == Backing::Erofs { "diff-" } else { "open-" };
        let kept = |name: &str| sound && name.strip_prefix(kept).is_some_and(|hex| sha256(&blob).ends_with(hex));
        assert!(left.iter().all(|name| before.contains(name) || kept(name) || known.contains(name)), "{left:?}");
        known = left;
        assert_eq!(fs::read_dir(store.path().join("stage")).map_or(0, Iterator::count), 0);
    }
}
