//! What a layer means, whatever the order of its entries.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::Bytes;
use crate::layer::{Attributes, Device, Entry, Fold, Kind, LayerLimits, NodeId, Put};

/// Law 2 of the design: entries with paths of their own mean the same in any order, and so do entries whose path an earlier entry
/// had too, with something else in it. A hard link follows its target. A fold makes no more directories than names name, and
/// a layer that is refused is refused in any order.
///
/// The input makes a list of entries of a small world of names, then two orders for them. Left out are entries below something
/// that is no directory: there, the order is known to matter.
pub fn layer_fold(input: &[u8]) {
    let mut choices = Bytes::new(input);
    let seeds = [choices.u32(), choices.u32()];
    let (entries, links) = world(&mut choices);
    let shadows: Vec<Entry> = entries.iter().filter_map(|entry| shadow(entry, &mut choices)).collect();

    let straight = fold(entries.iter().chain(&links));
    for seed in seeds {
        let mut shuffled: Vec<&Entry> = entries.iter().collect();
        shuffle(&mut shuffled, seed);
        let permuted = fold(shuffled.iter().copied().chain(&links));
        assert_eq!(straight, permuted, "order matters: {entries:#?}");
        // An earlier entry for the same path counts for nothing.
        let mut shadowed: Vec<&Entry> = Vec::new();
        for entry in shuffled {
            shadowed.extend(shadows.iter().filter(|shadow| path(&shadow.name) == path(&entry.name)));
            shadowed.push(entry);
        }
        let shadowed = fold(shadowed.into_iter().chain(&links));
        assert_eq!(straight, shadowed, "an earlier entry matters: {entries:#?} {shadows:#?}");
    }
}

const NAMES: [&str; 12] =
    ["a", "b", "c", "dir", "é", "..a", ".wh.a", ".wh.b", ".wh.dir", ".wh..wh..opq", ".wh..wh.plnk", ".wh.c"];

/// Entries with paths of their own, none below a leaf; and hard links, which come last.
fn world(choices: &mut Bytes<'_>) -> (Vec<Entry>, Vec<Entry>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut links = Vec::new();
    while !choices.is_empty() && entries.len() < 48 {
        let depth = 1 + choices.below(4);
        let components: Vec<&str> =
            (0..depth).map(|level| choices.pick(if level + 1 == depth { &NAMES } else { &NAMES[..6] })).collect();
        let prefix = choices.pick(&["", "./", "/", "x/../"]);
        let name = format!("{prefix}{}", components.join("/")).into_bytes();
        let mode = u32::from(choices.byte());
        let kind = match choices.below(8) {
            0..=2 => Kind::Directory,
            3 | 4 => Kind::File { size: u64::from(mode), sparse: None },
            5 => Kind::Symlink(choices.pick(&["a", "../b", "/dir", "nowhere"]).into()),
            6 => Kind::CharDevice(Device { major: 1, minor: mode }),
            _ => Kind::HardLink(choices.pick(&["a", "a/b", "dir/c", "b"]).into()),
        };
        let entry = Entry { name, kind, attributes: attributes(mode) };
        if matches!(entry.kind, Kind::HardLink(_)) { &mut links } else { &mut entries }.push(entry);
    }
    let mut taken = BTreeSet::new();
    entries.retain(|entry| taken.insert(path(&entry.name)));
    links.retain(|entry| taken.insert(path(&entry.name)));
    let leaves: BTreeSet<Vec<Vec<u8>>> = (entries.iter().chain(&links))
        .filter(|entry| entry.kind != Kind::Directory)
        .map(|entry| path(&entry.name))
        .collect();
    let free = |entry: &Entry| {
        let path = path(&entry.name);
        (1..path.len()).all(|length| !leaves.contains(&path[..length]))
    };
    entries.retain(free);
    links.retain(free);
    (entries, links)
}

fn attributes(mode: u32) -> Attributes {
    Attributes { mode, uid: mode, gid: 0, mtime: (i64::from(mode), 0), xattrs: Vec::new() }
}

fn path(name: &[u8]) -> Vec<Vec<u8>> {
    let mut path = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            component => path.push(component.to_vec()),
        }
    }
    path
}

/// Something else under the name of an entry, and nothing that would take more than itself away when it goes.
fn shadow(entry: &Entry, choices: &mut Bytes<'_>) -> Option<Entry> {
    let choice = choices.byte();
    let kind = match (&entry.kind, choice % 4) {
        (_, 0) => return None,
        (Kind::Directory, _) => Kind::Directory,
        // A whiteout is no directory.
        (_, 1) if !entry.name.windows(4).any(|part| part == b".wh.") => Kind::Directory,
        (_, 2) => Kind::Symlink(b"elsewhere".to_vec()),
        _ => Kind::Fifo,
    };
    Some(Entry { name: entry.name.clone(), kind, attributes: attributes(0o7000 + u32::from(choice)) })
}

fn shuffle<T>(list: &mut [T], seed: u32) {
    let mut next = random(seed);
    for end in (1..list.len()).rev() {
        list.swap(end, next() as usize % (end + 1));
    }
}

/// xorshift32.
fn random(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    }
}

type Path = Vec<Vec<u8>>;

/// What a layer means, without the numbers of nodes.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    /// Everything that was put, by path; the same inode has the same path, that of one of its names.
    put: BTreeMap<Path, (String, Path)>,
    root: Option<Attributes>,
    opaque_root: bool,
    directories: BTreeMap<Path, (Option<Attributes>, bool, bool, bool)>,
    whiteouts: BTreeSet<Path>,
    implied: BTreeMap<Path, bool>,
    links: BTreeMap<Path, Path>,
}

/// `None` for a layer that is refused.
fn fold<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<Tree> {
    let mut fold = Fold::new(&LayerLimits::default());
    let mut put: Vec<(NodeId, String, NodeId)> = Vec::new();
    let (mut named, mut implied) = (0, 0);
    for entry in entries {
        named += entry.name.split(|byte| *byte == b'/').count();
        let Some(step) = fold.add(entry).ok()? else { continue };
        implied += step.implied.len();
        put.extend(step.implied.iter().map(|node| (*node, "directory".to_owned(), *node)));
        match step.put {
            Put::Nothing { .. } => {}
            Put::Directory(node) => put.push((node, "directory".to_owned(), node)),
            Put::Leaf(node) => put.push((node, format!("{:?} {:?}", entry.kind, entry.attributes), node)),
            Put::Link { node, target } => {
                let (_, what, inode) = put.iter().find(|(put, ..)| *put == target).expect("a target was put").clone();
                put.push((node, what, inode));
            }
        }
    }
    assert!(implied <= named, "{implied} directories for {named} components");
    let meaning = fold.finish().ok()?;
    let path = |node: NodeId| -> Path { fold.path(node).into_iter().map(<[u8]>::to_vec).collect() };
    put.retain(|(node, ..)| fold.holds(*node));
    let inode = |wanted: NodeId| put.iter().filter(|(.., inode)| *inode == wanted).map(|(node, ..)| path(*node)).min();
    Some(Tree {
        put: put.iter().map(|(node, what, of)| (path(*node), (what.clone(), inode(*of).unwrap_or_default()))).collect(),
        root: meaning.root,
        opaque_root: meaning.opaque_root,
        directories: (meaning.directories.into_iter())
            .map(|end| (path(end.node), (fold.attributes(end.node).cloned(), end.opaque, end.whiteouts, end.unmade)))
            .collect(),
        whiteouts: meaning.whiteouts.iter().map(|node| path(*node)).collect(),
        implied: meaning.implied.iter().map(|(node, only)| (path(*node), *only)).collect(),
        links: meaning
            .links
            .iter()
            .map(|(node, target)| (path(*node), target.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()))
            .collect(),
    })
}
