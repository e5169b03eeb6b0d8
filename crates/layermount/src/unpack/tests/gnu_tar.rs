//! What GNU tar packs comes back as it was, in each of its formats.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, XattrFlags, mknodat};

use super::*;

/// All that can be compared: type and mode, size, time, hard-link group, content or target, an xattr.
type Tree = BTreeMap<PathBuf, (u32, u64, (i64, i64), Vec<u8>, Option<PathBuf>, Option<Vec<u8>>)>;

#[test]
fn every_format_of_gnu_tar() {
    if Command::new("tar").arg("--version").output().is_err() {
        return skip("tar", "GNU tar is not here");
    }
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    plant(&source);
    for (arguments, fractions) in [
        (&["--format=gnu"][..], false),
        (&["--format=gnu", "--sparse"], false),
        (&["--format=oldgnu", "--sparse"], false),
        (&["--format=posix", "--xattrs"], true),
        (&["--format=posix", "--xattrs", "--sparse", "--sparse-version=0.0"], true),
        (&["--format=posix", "--xattrs", "--sparse", "--sparse-version=0.1"], true),
        (&["--format=posix", "--xattrs", "--sparse", "--sparse-version=1.0"], true),
    ] {
        let output =
            Command::new("tar").args(arguments).arg("-C").arg(&source).args(["-cf", "-", "."]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut stack = Stack::new(options(OverlayXattrs::User));
        stack.push(&output.stdout).unwrap();
        assert_eq!(survey(&source, fractions), survey(stack.top(), fractions), "{arguments:?}");
        if arguments.contains(&"--sparse") {
            assert!(fs::metadata(stack.top().join("holes")).unwrap().blocks() < 4096, "{arguments:?}");
        }
    }
}

fn plant(source: &Path) {
    let long = source.join("d".repeat(120)).join("e".repeat(200));
    for directory in [source, long.parent().unwrap(), &long] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(long.join("f".repeat(250)), vec![7; 100_001]).unwrap();
    fs::write(source.join("empty"), "").unwrap();
    fs::hard_link(source.join("empty"), long.join("again")).unwrap();
    symlink("x".repeat(300), source.join("link")).unwrap();
    fs::write(source.join("new\nline \\ \u{e9}"), "x").unwrap();
    rustix::fs::setxattr(source.join("empty"), c"user.lines", b"a\nb\n22 linkpath=/etc/evil\n", XattrFlags::empty())
        .unwrap();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let holes = fs::OpenOptions::new().create_new(true).write(true).open(source.join("holes")).unwrap();
    holes.set_len(64 << 20).unwrap();
    for index in 0..60 {
        holes.write_all_at(&[index as u8 + 1; 5000], index << 20).unwrap();
    }
    rustix::fs::utimensat(CWD, &long, &metadata_times(-1000, 250_000_000), AtFlags::empty()).unwrap();
}

fn metadata_times(seconds: i64, nanoseconds: u32) -> rustix::fs::Timestamps {
    super::super::metadata::times((seconds, nanoseconds))
}

fn survey(root: &Path, with_pax: bool) -> Tree {
    let mut tree = Tree::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let stat = fs::symlink_metadata(&path).unwrap();
            let relative = path.strip_prefix(root).unwrap().to_owned();
            let group = (stat.nlink() > 1 && !stat.is_dir())
                .then(|| first.entry(stat.ino()).or_insert_with(|| relative.clone()).clone());
            let mut value = [0; 100];
            let xattr = rustix::fs::lgetxattr(&path, c"user.lines", &mut value[..]).ok();
            let content = match stat.file_type() {
                kind if kind.is_file() => fs::read(&path).unwrap(),
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                _ => Vec::new(),
            };
            if stat.is_dir() {
                open.push(path);
            }
            let size = if stat.is_dir() { 0 } else { stat.size() };
            let time = (stat.mtime(), if with_pax { stat.mtime_nsec() } else { 0 });
            let xattr = xattr.filter(|_| with_pax).map(|length| value[..length].to_vec());
            tree.insert(relative, (stat.mode(), size, time, content, group, xattr));
        }
    }
    tree
}
