use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn entry(name: &str, kind: Kind) -> Entry {
    let attributes = Attributes { mode: 0o700, uid: 1, gid: 2, mtime: (3, 4), xattrs: Vec::new() };
    Entry { name: name.into(), kind, attributes }
}

fn file(name: &str) -> Entry {
    entry(name, Kind::File { size: 0, sparse: None })
}

fn directory(name: &str) -> Entry {
    entry(name, Kind::Directory)
}

/// What a backing that does every step ends up with, as text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    things: BTreeMap<String, String>,
    implied: BTreeSet<(String, bool)>,
    links: BTreeSet<(String, String)>,
    opaque_root: bool,
    has_root: bool,
}

fn text(path: Vec<&[u8]>) -> String {
    String::from_utf8(path.join(&b'/')).unwrap()
}

fn fold(entries: &[Entry]) -> Result<Outcome, String> {
    let mut fold = Fold::new(&LayerLimits::default());
    let mut outcome = Outcome::default();
    for entry in entries {
        let Some(step) = fold.add(entry).map_err(|refusal| refusal.to_string())? else { continue };
        for node in step.implied {
            outcome.things.insert(text(fold.path(node)), "dir".into());
        }
        let (Put::Nothing { node } | Put::Directory(node) | Put::Leaf(node) | Put::Link { node, .. }) = step.put;
        let path = text(fold.path(node));
        match step.displaced {
            Displaced::Nothing => {}
            Displaced::Leaf => assert_ne!(outcome.things.remove(&path).as_deref(), Some("dir")),
            Displaced::Tree => {
                assert_eq!(outcome.things.remove(&path).as_deref(), Some("dir"));
                let inside = format!("{path}/");
                outcome.things.retain(|path, _| !path.starts_with(&inside));
            }
        }
        let what = match step.put {
            Put::Nothing { .. } => continue,
            Put::Directory(_) => "dir".to_owned(),
            Put::Leaf(_) => "leaf".to_owned(),
            Put::Link { target, .. } => format!("link to {}", text(fold.path(target))),
        };
        assert_eq!(outcome.things.insert(path, what), None, "EEXIST");
    }
    let meaning = fold.finish().map_err(|refusal| refusal.to_string())?;
    for end in &meaning.directories {
        let what = outcome.things.entry(text(fold.path(end.node))).or_insert_with(|| {
            assert!(end.unmade);
            "dir".into()
        });
        assert_eq!(what, "dir");
        *what = match fold.attributes(end.node) {
            Some(attributes) => format!("dir {:o}", attributes.mode),
            None => "dir implied".into(),
        };
        if end.opaque {
            what.push_str(" opaque");
        }
    }
    for whiteout in &meaning.whiteouts {
        assert_eq!(outcome.things.insert(text(fold.path(*whiteout)), "whiteout".into()), None, "EEXIST");
    }
    outcome.implied = meaning.implied.iter().map(|(node, only)| (text(fold.path(*node)), *only)).collect();
    outcome.links = (meaning.links.iter()).map(|(node, target)| (text(fold.path(*node)), text(vec![target]))).collect();
    outcome.opaque_root = meaning.opaque_root;
    outcome.has_root = meaning.root.is_some();
    Ok(outcome)
}

fn things(entries: &[Entry]) -> Vec<(String, String)> {
    fold(entries).unwrap().things.into_iter().collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())).collect()
}

#[test]
fn an_entry_beats_a_whiteout_of_its_path() {
    let entries = [file("a"), directory("d"), file("i/x"), file(".wh.a"), file(".wh.d"), file(".wh.i"), file(".wh.z")];
    let expected =
        [("a", "leaf"), ("d", "dir 700 opaque"), ("i", "dir implied opaque"), ("i/x", "leaf"), ("z", "whiteout")];
    assert_eq!(things(&entries), pairs(&expected));
    let mut reversed = entries;
    reversed.reverse();
    assert_eq!(things(&reversed), pairs(&expected));
    assert!(fold(&reversed).unwrap().implied.is_empty(), "nothing of a lower layer shows through an opaque directory");
}

#[test]
fn nothing_is_whited_out_where_nothing_lower_shows() {
    for entries in [
        vec![file(".wh.foo"), file("foo/.wh.bar")],
        vec![file("foo/.wh.bar"), file(".wh.foo")],
        vec![file("foo/.wh.bar/../.wh.bar"), file(".wh.foo"), file("foo/.wh..wh..opq")],
    ] {
        assert_eq!(things(&entries), pairs(&[("foo", "whiteout")]), "{entries:?}");
    }
    let entries = [file("d/e/.wh.x"), file("d/.wh.y"), file("d/.wh..wh..opq"), directory("d")];
    assert_eq!(things(&entries), pairs(&[("d", "dir 700 opaque")]));
    assert_eq!(things(&[file("f"), file("f/.wh.x"), file("f/g/.wh..wh..opq")]), pairs(&[("f", "leaf")]));
    let root = fold(&[file(".wh..wh..opq"), file(".wh.x"), file("d/.wh.y"), file("e/f")]).unwrap();
    assert!(root.opaque_root && root.implied.is_empty());
    assert_eq!(root.things, pairs(&[("e", "dir implied"), ("e/f", "leaf")]).into_iter().collect());
}

#[test]
fn whiteouts_go_through_symlinks_of_the_layer() {
    let link = entry("l", Kind::Symlink(b"/d/../d".to_vec()));
    let entries = [file("l/.wh.x"), link.clone(), directory("d")];
    assert_eq!(things(&entries), pairs(&[("d", "dir 700"), ("d/x", "whiteout"), ("l", "leaf")]));
    assert_eq!(things(&[link, file(".wh.l")]), pairs(&[("l", "leaf")]));
}

#[test]
fn parents_are_implied_only_until_they_are_named() {
    let outcome = fold(&[file("a/b/c"), directory("a"), file("w/.wh.x")]).unwrap();
    assert_eq!(outcome.implied, [("a/b".to_owned(), false), ("w".to_owned(), true)].into_iter().collect());
    assert_eq!(outcome.things["w"], "dir implied");
    assert_eq!(fold(&[directory("a"), file("a/.wh.x")]).unwrap().implied, BTreeSet::new());
}

#[test]
fn hard_links_into_lower_layers_stay_open() {
    let link = |name: &str, target: &str| entry(name, Kind::HardLink(target.into()));
    let up = entry("etc", Kind::Symlink(b"../../usr/etc".to_vec()));
    let outcome = fold(&[up, link("b", "/etc/passwd"), link("c", "b")]).unwrap();
    let target = "usr/etc/passwd".to_owned();
    assert_eq!(outcome.links, [("b".into(), target.clone()), ("c".into(), target)].into_iter().collect());
    let outcome = fold(&[file("a"), link("b", "./a"), file("a"), link("b", "b")]).unwrap();
    assert_eq!(outcome.things["b"], "link to a");
    for bad in [
        vec![link("b", "a"), file("a")],
        vec![directory("a"), link("b", "a")],
        vec![link("b", "")],
        vec![link("b", "../a")],
        vec![file("d/a"), link("d", "d/a")],
        vec![link("a", "a")],
    ] {
        assert!(fold(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn names_that_mean_nothing_are_refused() {
    for bad in ["..", "a/../..", "/../a", ".wh.", ".wh..", "a/.wh...", ".wh.a/b", "", "a\0b"] {
        assert!(fold(&[file(bad)]).is_err(), "{bad:?}");
    }
    assert!(fold(&[directory(".wh.a")]).is_err());
    assert!(fold(&[directory(".wh..wh..opq")]).is_err());
    assert!(fold(&[file(&"n".repeat(256))]).is_err());
    assert!(fold(&[file(&format!(".wh.{}", "n".repeat(255)))]).is_ok());
    assert!(fold(&[file("f"), file("f/x")]).is_err());
    assert!(fold(&[directory("a/..")]).unwrap().has_root);
    assert_eq!(things(&[directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file(".wh..wh.aufs")]), []);
    let device = Kind::CharDevice(Device { major: 0, minor: 0 });
    assert!(fold(&[entry("c", device)]).is_err());
}

#[test]
fn symlinks_cannot_make_paths_longer_than_the_limits() {
    let deep = |name: &str| entry(name, Kind::Symlink(b"x/".repeat(600)));
    assert!(fold(&[deep("l"), file("l/f")]).is_ok());
    assert!(fold(&[deep("l"), deep("l/m"), file("l/m/f")]).is_err());
    let wide = [entry("l", Kind::Symlink([&b"y".repeat(255)[..], b"/"].concat().repeat(17))), file("l/f")];
    assert!(fold(&wide).is_err());
    let turn = [entry("l", Kind::Symlink(b"m".to_vec())), entry("m", Kind::Symlink(b"l".to_vec())), file("l/f")];
    assert!(fold(&turn).is_err());
}

/// Entries whose order must not matter: one for each path, and none below anything that is not a directory.
fn order_free() -> impl Strategy<Value = Vec<Entry>> {
    let path = proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..4);
    let mark = 0..6;
    proptest::collection::vec((path, mark), 0..14).prop_map(|drawn| {
        let mut kinds: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for (path, mark) in drawn {
            let path = path.join("/");
            let (parent, name) = path.rsplit_once('/').map_or(("", &*path), |(parent, name)| (parent, name));
            let (key, entry) = match mark {
                0 => (format!("{parent}/.wh.{name}"), file(&format!("{parent}/.wh.{name}"))),
                1 => (format!("{path}/.wh..wh..opq"), file(&format!("{path}/.wh..wh..opq"))),
                2 | 3 => (path.clone(), directory(&path)),
                _ => (path.clone(), file(&path)),
            };
            kinds.entry(key).or_insert_with(|| vec![entry]);
        }
        let files: Vec<String> = (kinds.iter())
            .filter(|(path, entries)| {
                !path.contains(".wh.") && entries.iter().all(|entry| entry.kind != Kind::Directory)
            })
            .map(|(path, _)| format!("{path}/"))
            .collect();
        kinds.retain(|path, _| path.contains(".wh.") || !files.iter().any(|file| path.starts_with(file.as_str())));
        kinds.into_values().flatten().collect()
    })
}

proptest! {
    #[test]
    fn any_order_gives_the_same_layer((entries, shuffled) in order_free().prop_flat_map(|entries| {
        (Just(entries.clone()), Just(entries).prop_shuffle())
    })) {
        let first = fold(&entries);
        prop_assert!(first.is_ok(), "{first:?}");
        prop_assert_eq!(first, fold(&shuffled));
    }
}

/// Each name is short, and leads through forty thousand components.
#[test]
fn symlinks_cannot_multiply_the_work() {
    let link = |name: usize, target: String| entry(&format!("l{name}"), Kind::Symlink(target.into_bytes()));
    let mut entries = vec![directory("d"), link(0, "d/../".repeat(500) + "d")];
    entries.extend((1..39).map(|name| link(name, format!("l{}/../{}d", name - 1, "d/../".repeat(500)))));
    let limits = LayerLimits { symlink_components: 400_000, ..LayerLimits::default() };
    let mut fold = Fold::new(&limits);
    for entry in &entries {
        fold.add(entry).unwrap();
    }
    let refused = (0..100).find_map(|name| fold.add(&file(&format!("l38/f{name}"))).err());
    assert!(matches!(refused, Some(Refusal::Limit { limit: 400_000, .. })), "{refused:?}");
}
