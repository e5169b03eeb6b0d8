//! The cases of `fixtures/cases`, through a real overlay.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use layermount_fixtures::case;
use serde_json::{Value, json};

use super::archives::decode;
use super::files::{Files, Mounts};
use super::mounted::{Mounted, Node};
use super::*;
use crate::error::{Error, ErrorKind};

pub(super) const FILES: [(&str, &str); 6] = [
    ("composefs-oci", include_str!("../../../../../fixtures/cases/composefs-oci.json")),
    ("containerd", include_str!("../../../../../fixtures/cases/containerd.json")),
    ("layermount-extra", include_str!("../../../../../fixtures/cases/layermount-extra.json")),
    ("libarchive-secure", include_str!("../../../../../fixtures/cases/libarchive-secure.json")),
    ("moby-go-archive", include_str!("../../../../../fixtures/cases/moby-go-archive.json")),
    ("rust-tar", include_str!("../../../../../fixtures/cases/rust-tar.json")),
];

#[test]
fn cases_in_the_trusted_namespace() {
    if !is_root() {
        return skip("root", "only root can write trusted xattrs");
    }
    run(&|| Box::new(Stack::new(options(OverlayXattrs::Trusted))));
}

#[test]
fn cases_in_the_user_namespace() {
    run(&|| Box::new(Stack::new(options(OverlayXattrs::User))));
}

#[test]
fn cases_in_files_of_their_own() {
    if Files::can_be_mounted() {
        run(&|| Box::new(Files::new(Mounts::Each)));
    }
}

#[test]
fn cases_in_files_under_one_index() {
    if Files::can_be_mounted() {
        run(&|| Box::new(Files::new(Mounts::Merged)));
        run(&|| Box::new(Files::new(Mounts::Absorbed)));
    }
}

pub(super) fn run(subject: &dyn Fn() -> Box<dyn Subject>) {
    if !can_mount() {
        skip("root", "cases are unpacked, but not mounted, because that takes root");
    }
    let (mut ran, mut skipped, mut failures) = (0, 0, Vec::new());
    for (file, text) in FILES {
        let cases: Value = serde_json::from_str(text).unwrap();
        for case in cases["cases"].as_array().unwrap() {
            match archives(case, "/nowhere") {
                None => skipped += 1,
                Some(_) => {
                    ran += 1;
                    if let Err(failure) = check(case, subject().as_mut()) {
                        failures.push(format!("{file}: {}: {failure}", case["id"]));
                    }
                }
            }
        }
    }
    eprintln!("{ran} cases run, {skipped} are recipes for other tests");
    assert!(failures.is_empty(), "{} of {ran} cases fail:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 150, "only {ran} cases were found");
}

/// The archives of a case, base first; `None` for a recipe in words.
pub(super) fn archives(case: &Value, outside: &str) -> Option<Vec<Vec<u8>>> {
    if let Some(raw) = case["raw"].as_array() {
        return Some(vec![case::raw(raw).unwrap()]);
    }
    if let Some(operations) = case["stream"]["ops"].as_array() {
        return stream(operations).map(|blob| vec![blob]);
    }
    let mut layers: Vec<Vec<Value>> = Vec::new();
    if let Some(pre) = case["pre"].as_array().filter(|pre| !pre.is_empty()) {
        layers.push(pre.clone());
    }
    match case["layers"].as_array().filter(|layers| !layers.is_empty()) {
        Some(of_case) => layers.extend(of_case.iter().map(|layer| layer.as_array().unwrap().clone())),
        None => layers.extend(generate(&case["generator"])?),
    }
    Some(layers.iter().map(|layer| case::archive(layer, outside).unwrap()).collect())
}

/// A blob made from a small archive step by step; `None` for steps that take a test of their own.
fn stream(operations: &[Value]) -> Option<Vec<u8>> {
    let archive = || case::archive(&[json!({"name": "a", "type": "file", "content": "x".repeat(5000)})], "").unwrap();
    let mut blob = Vec::new();
    for operation in operations {
        let (name, argument) =
            operation.as_str().unwrap().split_once(':').unwrap_or((operation.as_str().unwrap(), "0"));
        let number: i64 = argument.parse().unwrap_or_default();
        let from_end = blob.len().saturating_sub(number.unsigned_abs() as usize);
        blob = match name {
            "tar" => archive(),
            "zero-bytes" => Vec::new(),
            "gzip" => gzip(&blob, flate2::GzBuilder::new()),
            "gzip_members" => {
                let piece = blob.len().div_ceil(number as usize);
                blob.chunks(piece).flat_map(|chunk| gzip(chunk, flate2::GzBuilder::new())).collect()
            }
            "gzip_flags" => {
                gzip(&blob, flate2::GzBuilder::new().extra(vec![7; 65_535]).filename("name").comment("comment"))
            }
            "zstd" if cfg!(feature = "zstd") && !blob.is_empty() => zstd(&blob),
            "prepend_skippable" => [&b"\x5e\x2a\x4d\x18\x03\0\0\0abc"[..], &blob].concat(),
            "append_zeros" => [&blob[..], &vec![0; number as usize]].concat(),
            "flip" => {
                blob[from_end] ^= 0x40;
                blob
            }
            "truncate" => {
                blob.truncate(from_end);
                blob
            }
            "gnu_longname" => case::raw(&[json!({"hdr": {"type": "L", "magic": "gnu", "size": 1_u64 << 30}})]).unwrap(),
            "gnu_sparse_regions" => {
                let map = format!("{number}\n{}", "0\n0\n".repeat(100_000));
                let records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.realsize=1\n";
                case::raw(&[
                    json!({"hdr": {"name": "pax", "type": "x", "data": records}}),
                    json!({"hdr": {"name": "f", "type": "0", "data": map}}),
                ])
                .unwrap()
            }
            _ => return None,
        };
    }
    Some(blob)
}

fn gzip(bytes: &[u8], builder: flate2::GzBuilder) -> Vec<u8> {
    let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[cfg(feature = "zstd")]
fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

#[cfg(not(feature = "zstd"))]
fn zstd(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn generate(recipe: &Value) -> Option<Vec<Vec<Value>>> {
    let number = |key: &str| recipe[key].as_u64().unwrap() as usize;
    Some(match recipe["kind"].as_str()? {
        "deep_dirs" => {
            let name = vec![recipe["component"].as_str().unwrap(); number("depth")].join("/");
            vec![vec![json!({"name": name, "type": "dir"})]]
        }
        "xattrs" => {
            let value = "v".repeat(number("size"));
            let xattrs: serde_json::Map<_, _> =
                (0..number("count")).map(|index| (format!("user.x{index}"), json!(value))).collect();
            vec![vec![json!({"name": "a", "type": "file", "xattrs": xattrs})]]
        }
        "layers" => {
            let mut layers = vec![recipe["layer0"].as_array().unwrap().clone()];
            for index in 1..number("count") {
                let text = recipe["layer_i"].to_string().replace("{i}", &index.to_string());
                layers.push(serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone());
            }
            layers
        }
        other => panic!("unknown generator {other}"),
    })
}

fn check(case: &Value, stack: &mut dyn Subject) -> Result<(), String> {
    let outside = surroundings(stack.place());
    let before = snapshot(stack.place());
    let archives = archives(case, &outside).unwrap();
    let result = archives.iter().try_for_each(|blob| stack.push(&decode(blob)?));
    let after = snapshot(stack.place());
    if before != after {
        return Err(format!("something outside changed: {before:?} != {after:?}"));
    }
    // Where layers cannot give what one directory would, the case says what they give.
    let expect = case.get("overlay_expect").unwrap_or(&case["expect"]);
    match (expect["result"].as_str().unwrap(), result) {
        ("reject" | "either", Err(error)) => refused_well(&error),
        ("reject", Ok(())) => Err("it was accepted".into()),
        (_, Err(error)) => Err(format!("{error:#}")),
        (_, Ok(())) => {
            if let (Some(marks), Some(top)) = (expect["overlay_ondisk"].as_object(), stack.top()) {
                for (path, mark) in marks {
                    on_disk(top, path, mark.as_str().unwrap(), stack.namespace())?;
                }
            }
            if !can_mount() {
                return Ok(());
            }
            in_mount(&stack.mount(), expect, users())?;
            // An ordinary user's layers have directories that only the root of a user namespace can read.
            let flat = stack.place().join("layers/1000");
            stack.layer_stack().flatten_into(&flat).map_err(|error| format!("{error:#}"))?;
            let owner = users().map(|_| Users::One);
            in_mount(&Mounted::directory(&flat), expect, owner).map_err(|difference| format!("flattened: {difference}"))
        }
    }
}

fn refused_well(error: &Error) -> Result<(), String> {
    match error.kind() {
        ErrorKind::InvalidLayer | ErrorKind::LimitExceeded => Ok(()),
        kind => Err(format!("refused as {kind:?}: {error:#}")),
    }
}

fn in_mount(mounted: &Mounted, expect: &Value, users: Option<Users>) -> Result<(), String> {
    let nothing = serde_json::Map::new();
    for (path, wanted) in expect["tree"].as_object().unwrap_or(&nothing) {
        let node = mounted.find(path.as_bytes()).ok_or_else(|| format!("{path:?} is missing"))?;
        compare(&node, wanted, users).map_err(|difference| format!("{path:?}: {difference}"))?;
    }
    for path in expect["absent"].as_array().into_iter().flatten() {
        if mounted.find(path.as_str().unwrap().as_bytes()).is_some() {
            return Err(format!("{path} is there"));
        }
    }
    let listing = mounted.listing();
    if let Some(wanted) = expect["listing"].as_array() {
        let mut wanted: Vec<_> = wanted.iter().map(|path| path.as_str().unwrap().to_owned()).collect();
        wanted.sort();
        let found: Vec<_> = listing.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        if found != wanted {
            return Err(format!("listing is {found:?}"));
        }
    }
    for (key, wanted) in [("same_inode", true), ("not_same_inode", false)] {
        for pair in expect[key].as_array().into_iter().flatten() {
            let inode =
                |index: usize| mounted.find(pair[index].as_str().unwrap().as_bytes()).map(|node| node.stat.st_ino);
            match (inode(0), inode(1)) {
                (Some(first), Some(second)) if (first == second) == wanted => {}
                other => return Err(format!("{key} {pair}: {other:?}")),
            }
        }
    }
    Ok(())
}

fn compare(node: &Node, wanted: &Value, users: Option<Users>) -> Result<(), String> {
    let differs = |what: &str, found: String| Err(format!("{what} is {found}, not {}", wanted[what]));
    if let Some(content) = wanted.as_str() {
        return match (node.kind(), case::bytes(content)?) {
            ("file", content) if node.content() == content => Ok(()),
            (kind, _) => Err(format!("a {kind} with other content")),
        };
    }
    for (key, value) in wanted.as_object().unwrap() {
        let number = value.as_i64();
        // What an owner becomes who is not there.
        let owner = u32::try_from(number.unwrap_or(-1)).ok();
        let owner = owner.map(|id| users.map_or(id, |users| users.owner(id, id, 0).0));
        match key.as_str() {
            "type" if value == node.kind() => {}
            "type" => return differs("type", node.kind().into()),
            "mode" if value.as_str().map(|octal| u32::from_str_radix(octal, 8)) == Some(Ok(node.mode())) => {}
            "mode" => return differs("mode", format!("{:o}", node.mode())),
            "linkname" if value.as_str().map(str::as_bytes) == Some(&node.link()) => {}
            "content" if value.as_str().map(str::as_bytes) == Some(&node.content()) => {}
            "mtime" if number == Some(node.stat.st_mtime) => {}
            "uid" if owner == Some(node.stat.st_uid) => {}
            "gid" if owner == Some(node.stat.st_gid) => {}
            "size" if number == Some(node.stat.st_size) => {}
            "xattrs" => {
                for (name, value) in value.as_object().unwrap() {
                    if node.xattr(name) != Some(case::bytes(value.as_str().unwrap())?) {
                        return differs("xattrs", format!("{:?}", node.xattr(name)));
                    }
                }
            }
            other => return Err(format!("{other} differs from {value}")),
        }
    }
    Ok(())
}

fn on_disk(layer: &Path, path: &str, wanted: &str, xattrs: OverlayXattrs) -> Result<(), String> {
    let path = layer.join(path);
    let mut value = [0; 2];
    let mark = format!("{}.overlay.opaque", xattrs.as_str());
    let opaque = || rustix::fs::lgetxattr(&path, mark.as_str(), &mut value[..]) == Ok(1);
    let found = match fs::symlink_metadata(&path) {
        Err(_) => "absent",
        Ok(stat) if stat.file_type().is_char_device() && stat.rdev() == 0 => "whiteout",
        Ok(stat) if stat.is_dir() && { opaque }() => "opaque",
        Ok(stat) if stat.is_dir() => "dir",
        Ok(_) => "file",
    };
    if found == wanted { Ok(()) } else { Err(format!("{} is {found} on disk, not {wanted}", path.display())) }
}

/// Things beside the layer's directory that hostile names aim at.
fn surroundings(place: &Path) -> String {
    for directory in ["outside", "outside/target-dir", "layers/victim", "layers/dest-evil", "victim"] {
        fs::create_dir(place.join(directory)).unwrap();
        fs::set_permissions(place.join(directory), fs::Permissions::from_mode(0o700)).unwrap();
    }
    for (file, mode) in [
        ("outside/perm400", 0o400),
        ("outside/also-exists", 0o640),
        ("outside/target", 0o600),
        ("layers/victim/hello", 0o600),
        ("victim/hello", 0o600),
        ("layers/dest-evil/secret", 0o600),
    ] {
        fs::write(place.join(file), "sentinel").unwrap();
        fs::set_permissions(place.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    place.join("outside").to_str().unwrap().to_owned()
}

fn snapshot(place: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, u64)> {
    let mut seen = BTreeMap::new();
    let mut open = vec![place.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let is_layer = path.file_name().unwrap().to_str().unwrap().parse::<usize>().is_ok();
            if is_layer && path.parent() == Some(&place.join("layers")) {
                continue;
            }
            let stat = fs::symlink_metadata(&path).unwrap();
            let is_layers = path == place.join("layers");
            let time = if is_layers { (0, 0) } else { (stat.mtime(), stat.ctime()) };
            let size = if is_layers { 0 } else { stat.size() };
            let links = if is_layers { 0 } else { stat.nlink() };
            if stat.is_dir() {
                open.push(path.clone());
            }
            seen.insert(path, (stat.mode(), size, time.0, time.1, links));
        }
    }
    seen
}
