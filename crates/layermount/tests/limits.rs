//! Every limit at its value, where a layer is taken, and one below, where it is refused and nothing of it is left.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod archives;
mod backings;
mod engine;

use std::path::Path;

use archives::built;
use backings::{each, files_can_be_mounted};
use engine::Engine;
use layermount::store::{Backing, RealizeOptions};
use layermount::{ErrorKind, Image, Limit, Limits, OciLayouts, Platform, Source, Store};
use layermount_fixtures::{Built, Compression, Layout};

fn image(place: &Path, built: &Built) -> Image {
    Layout::create(place.join("layout")).unwrap().add("image", built).unwrap();
    let reference = format!("oci:{}:image", place.join("layout").display());
    OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap()
}

/// Realizes in a fresh store. Returns what an error says, `{:#}`, and its hint.
fn realize(backing: Backing, built: &Built, limits: Limits) -> Result<usize, (String, String)> {
    let place = tempfile::tempdir().unwrap();
    let image = image(place.path(), built);
    let store = Store::open(place.path().join("store")).unwrap();
    let result = store.realize_with(&image, &RealizeOptions::default().backing(backing).limits(limits));
    assert_eq!(std::fs::read_dir(place.path().join("store/stage")).unwrap().count(), 0);
    result.map(|stack| stack.layers().len()).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:#}");
        assert!(store.layers().unwrap().len() < built.layers.len(), "what is refused is not published");
        (format!("{error:#}"), error.hint().unwrap_or_default())
    })
}

/// Takes `built` where `limit` is `value`, and refuses it where it is one less, with an error that says `entry`.
#[track_caller]
fn holds(backing: Backing, built: &Built, limits: &Limits, limit: Limit, value: usize, entry: &str) {
    let value = value as u64;
    if let Err((error, _)) = realize(backing, built, limits.clone().with(limit, value)) {
        panic!("{limit}={value}: {error}");
    }
    let (error, hint) = realize(backing, built, limits.clone().with(limit, value - 1)).unwrap_err();
    assert!(error.contains(&format!("{limit}={}", value - 1)), "{error}");
    assert!(error.contains(&built.layers.last().unwrap().diff_id) && error.contains(entry), "{error}");
    assert!(hint.contains(&format!("--limit {limit}=")), "{hint}");
}

/// One entry, with the PAX records before it that it is given.
fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, records: &[(&str, &[u8])], data: &[u8]) {
    if !records.is_empty() {
        tar.append_pax_extensions(records.iter().copied()).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(nix::unistd::geteuid().as_raw().into());
    header.set_gid(nix::unistd::getegid().as_raw().into());
    header.set_size(data.len() as u64);
    header.set_mtime(0);
    if kind.is_symlink() {
        header.set_link_name("a/target/of/31/bytes/that/is/no").unwrap();
    }
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    tar.into_inner().unwrap()
}

fn file(name: &str, records: &[(&str, &[u8])], data: &[u8]) -> Built {
    built(vec![archive(|tar| append(tar, name, tar::EntryType::Regular, records, data))], Compression::Gzip)
}

#[test]
fn lengths_of_archives() {
    each(|backing| {
        let one = || archive(|tar| append(tar, "one", tar::EntryType::Regular, &[], &[7; 5000]));
        let two = || archive(|tar| append(tar, "two", tar::EntryType::Regular, &[], &[8; 9000]));
        let defaults = Limits::default();
        holds(backing, &built(vec![one()], Compression::Gzip), &defaults, Limit::TarBytes, one().len(), "");
        // Whichever comes second is refused.
        let both = built(vec![two(), one()], Compression::Gzip);
        let sum = one().len() + two().len();
        realize(backing, &both, defaults.clone().with(Limit::ImageBytes, sum as u64)).unwrap();
        let (error, hint) = realize(backing, &both, defaults.with(Limit::ImageBytes, sum as u64 - 1)).unwrap_err();
        assert!(error.contains(&format!("image-bytes={}", sum - 1)), "{error}");
        assert!(hint.contains("--limit image-bytes=SIZE"), "{hint}");
    });
}

#[test]
fn expansion() {
    each(|backing| {
        let plain =
            built(vec![archive(|tar| append(tar, "a", tar::EntryType::Regular, &[], &[0; 70000]))], Compression::Plain);
        let length = plain.layers[0].tar.len();
        let always = Limits::default().with(Limit::ExpansionFloor, 0);
        holds(backing, &plain, &always, Limit::ExpansionRatio, 1, "");
        // It is the ratio that is exceeded then.
        let never = Limits::default().with(Limit::ExpansionRatio, 0);
        realize(backing, &plain, never.clone().with(Limit::ExpansionFloor, length as u64)).unwrap();
        let (error, _) = realize(backing, &plain, never.with(Limit::ExpansionFloor, length as u64 - 1)).unwrap_err();
        assert!(error.contains("expansion-ratio=0"), "{error}");
        for compression in [Compression::Gzip, Compression::Zstd] {
            let bomb =
                built(vec![archive(|tar| append(tar, "a", tar::EntryType::Regular, &[], &[0; 4 << 20]))], compression);
            let limits = Limits::default().with(Limit::ExpansionFloor, 1 << 20).with(Limit::ExpansionRatio, 100);
            let (error, hint) = realize(backing, &bomb, limits).unwrap_err();
            assert!(
                error.contains("expansion-ratio=100") && hint.contains("--limit expansion-ratio=NUMBER"),
                "{error} {hint}"
            );
        }
    });
}

#[test]
fn entries() {
    each(|backing| {
        let three = archive(|tar| {
            ["a", "b", "c"].iter().for_each(|name| append(tar, name, tar::EntryType::Directory, &[], &[]));
        });
        holds(backing, &built(vec![three], Compression::Gzip), &Limits::default(), Limit::Entries, 3, "byte 1024");
        // Directories without an entry count, too.
        holds(backing, &file("a/b/c/d", &[], b""), &Limits::default(), Limit::Entries, 4, "a/b/c/d");
    });
}

#[test]
fn paths() {
    each(|backing| {
        let defaults = Limits::default();
        holds(backing, &file("directory/file", &[], b""), &defaults, Limit::PathBytes, 14, "directory/file");
        let long = "d/".repeat(150) + "f";
        holds(backing, &file("x", &[("path", long.as_bytes())], b""), &defaults, Limit::PathBytes, 301, "d/d/d/");
        holds(backing, &file("a/b/c/d", &[], b""), &defaults, Limit::PathDepth, 4, "a/b/c/d");
        let symlink = archive(|tar| append(tar, "link", tar::EntryType::Symlink, &[], &[]));
        holds(backing, &built(vec![symlink], Compression::Gzip), &defaults, Limit::PathBytes, 31, "link");
        // What the kernel could not name is refused whatever is said.
        let longer = "d/".repeat(2048) + "f";
        let (error, hint) = realize(
            backing,
            &file("x", &[("path", longer.as_bytes())], b""),
            defaults.with(Limit::PathBytes, u64::MAX),
        )
        .unwrap_err();
        assert!(error.contains("path-bytes=4095") && !hint.contains("--limit"), "{error} {hint}");
    });
}

#[test]
fn extensions() {
    each(|backing| {
        let defaults = Limits::default();
        // "13 comment=x\n"
        holds(backing, &file("f", &[("comment", b"x")], b""), &defaults, Limit::ExtensionBytes, 13, "byte");
        let name = "n".repeat(200);
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        // GNU's long name, and the NUL behind it.
        let gnu = archive(|tar| tar.append_data(&mut header, &name, &b""[..]).unwrap());
        holds(backing, &built(vec![gnu], Compression::Gzip), &defaults, Limit::ExtensionBytes, 201, "byte");
    });
}

#[test]
fn xattrs() {
    each(|backing| {
        let records: [(&str, &[u8]); 3] =
            [("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.b", b"two"), ("SCHILY.xattr.user.c", b"")];
        let built = file("f", &records, b"");
        holds(backing, &built, &Limits::default(), Limit::Xattrs, 3, "extended attributes of an entry");
        holds(backing, &built, &Limits::default(), Limit::XattrBytes, 3, "bytes of an extended attribute");
    });
}

#[test]
fn sparse_files() {
    each(|backing| {
        let map = [("GNU.sparse.size", &b"10"[..]), ("GNU.sparse.map", b"0,1,4,1,8,1")];
        holds(backing, &file("f", &map, b"abc"), &Limits::default(), Limit::SparseRegions, 3, "pieces of data");
        // The map in the data is read in blocks.
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"2000")];
        let mut data = "200\n".to_owned() + &(0..200).map(|n| format!("{}\n1\n", n * 10)).collect::<String>();
        let blocks = data.len().div_ceil(512) * 512;
        data.extend(std::iter::repeat_n('\0', blocks - data.len()));
        data.push_str(&"x".repeat(200));
        holds(
            backing,
            &file("map", &records, data.as_bytes()),
            &Limits::default(),
            Limit::ExtensionBytes,
            blocks,
            "map",
        );
    });
}

#[test]
fn streams_of_engines_are_limited_too() {
    each(|backing| {
        let built = file("a/b/c", &[], b"");
        let mut archive = Vec::new();
        layermount_fixtures::write_docker_archive(
            &mut archive,
            layermount_fixtures::ArchiveFormat::Classic,
            "x:1",
            &built,
        )
        .unwrap();
        let image = Image::new(layermount::ImageParts {
            id: None,
            manifest_digest: None,
            names: Vec::new(),
            platform: Platform::host(),
            config: layermount::Config::parse(built.config.clone()).unwrap(),
            descriptors: None,
            content: layermount::Content::Archive(std::sync::Arc::new(Engine(archive))),
        })
        .unwrap();
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path().join("store")).unwrap();
        let with = |value| {
            let limits = Limits::default().with(Limit::PathDepth, value);
            store.realize_with(&image, &RealizeOptions::default().backing(backing).limits(limits)).map(drop)
        };
        let error = with(2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:#}");
        assert!(
            format!("{error:#}").contains("\"a/b/c\": components of a path exceed the limit path-depth=2"),
            "{error:#}"
        );
        assert_eq!(store.layers().unwrap().len(), 0);
        with(3).unwrap();
    });
}

/// A hard link of an entry without data.
fn link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    header.set_mode(0o644);
    tar.append_link(&mut header, name, target).unwrap();
}

#[test]
fn files_that_links_have_copied_count_as_unpacked() {
    let backing = Backing::Directory;
    let below = archive(|tar| {
        append(tar, "file", tar::EntryType::Regular, &[], &[7; 100_000]);
        (0..9).for_each(|number| link(tar, &format!("name{number}"), "file"));
    });
    let above = archive(|tar| (0..9).for_each(|number| link(tar, &format!("link{number}"), &format!("name{number}"))));
    let archives = (below.len() + above.len()) as u64;
    let image = built(vec![below, above], Compression::Gzip);
    realize(backing, &image, Limits::default().with(Limit::ImageBytes, archives + 9 * 100_000)).unwrap();
    let limits = Limits::default().with(Limit::ImageBytes, archives + 4 * 100_000);
    let (error, _) = realize(backing, &image, limits).unwrap_err();
    assert!(error.contains("image-bytes="), "{error}");
    // The upper layer's few bytes stand for all that is copied.
    let copied = |floor| Limits::default().with(Limit::ExpansionRatio, 5).with(Limit::ExpansionFloor, floor);
    realize(backing, &image, copied(9 * 100_000)).unwrap();
    let (error, _) = realize(backing, &image, copied(8 * 100_000)).unwrap_err();
    assert!(error.contains("900000 bytes of copies") && error.contains("expansion-ratio=5"), "{error}");
    // In files, links are but names.
    if files_can_be_mounted() {
        let nothing = Limits::default().with(Limit::ImageBytes, archives).with(Limit::ExpansionRatio, 5);
        realize(Backing::Erofs, &image, nothing.with(Limit::ExpansionFloor, 200_000)).unwrap();
    }
}

#[test]
fn paths_that_short_names_stand_for_count_as_kept() {
    let long = "d".repeat(100);
    let tar = archive(|tar| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, "s", &long).unwrap();
        (0..100).for_each(|number| append(tar, &format!("s/{number}/f"), tar::EntryType::Regular, &[], b""));
    });
    let image = built(vec![tar], Compression::Gzip);
    let kept = |bytes| Limits::default().with(Limit::KeptBytes, bytes);
    realize(Backing::Directory, &image, kept(11_000)).unwrap();
    let (error, hint) = realize(Backing::Directory, &image, kept(10_000)).unwrap_err();
    assert!(error.contains("kept-bytes=10000") && error.contains(&long), "{error}");
    assert!(hint.contains("--limit kept-bytes=SIZE"), "{hint}");
    // For a file, only names are kept, whatever they stand for.
    if files_can_be_mounted() {
        realize(Backing::Erofs, &image, kept(10_000)).unwrap();
        realize(Backing::Erofs, &image, kept(100)).unwrap_err();
    }
}
