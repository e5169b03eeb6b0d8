mod layers;

use layermount_fixtures::model::{self, Namespace};
use layermount_fixtures::{Kind, Recipe, stacks};

use super::super::tree::{Child, Data, Directory, Entry, HOLE, Inode, InodeId, Metadata, Named, What};
use super::*;
use layers::Layer;

/// The merged tree of a recipe, one path a line. It is the model's, too.
#[track_caller]
fn tree(recipe: &str) -> Vec<String> {
    let recipe = Recipe::parse(recipe).unwrap();
    let entries: Vec<_> = recipe.layers().iter().map(|layer| layer.entries.clone()).collect();
    let layers: Vec<_> = entries.iter().map(|entries| Layer::new(entries).expect("plain entries")).collect();
    let layers: Vec<_> = layers.iter().collect();
    let merged = merge(&trees(&layers)).unwrap();
    let lines = lines_of(&merged, &layers);
    assert_eq!(lines, model::merged(&entries, Namespace::Trusted).unwrap().to_string(), "left: merged; right: model");
    // Owners and the usual time only tire the reader.
    let short = |line: &str| line.replace(" 0:0 1704067200.000000000", "").replace(" 0:0 0.000000000", " nobody's");
    lines.lines().map(short).collect()
}

fn trees<'a>(layers: &[&'a Layer]) -> Vec<&'a Tree> {
    layers.iter().map(|layer| &layer.tree).collect()
}

fn lines_of(merged: &Merged, layers: &[&Layer]) -> String {
    layers::lines(merged, layers).into_iter().map(|(path, line)| format!("{path}: {line}\n")).collect()
}

fn layer(recipe: &str) -> Layer {
    let recipe = Recipe::parse(&format!("layer\n{recipe}")).unwrap();
    Layer::new(&recipe.layers()[0].entries).unwrap()
}

/// What lies over `LOWER`, the root left out.
#[track_caller]
fn over(layers: &str, expected: &[&str]) {
    let lines = tree(&format!("{LOWER}layer\n{layers}\n"));
    assert_eq!(lines[1..], *expected);
}

const LOWER: &str = "layer\ndir 0700 0:0 /d\nfile 0644 0:0 /d/low x\nsymlink /l -> d\nfile 0600 0:0 /f y\n";

#[test]
fn nothing_is_a_root() {
    let merged = merge(&[]).unwrap();
    assert_eq!((merged.tree.inodes().len(), merged.devices.len()), (1, 0));
    assert_eq!(merged.tree.inode(InodeId::ROOT).unwrap().metadata, Metadata::IMPLIED);
    assert_eq!(tree("layer\n"), ["/: a directory, 0755 nobody's"]);
}

#[test]
fn the_root_is_the_topmost_that_is_named() {
    assert_eq!(
        tree("layer\ndir 0711 1:2 .\nlayer\nfile 0644 0:0 /f 1\n")[0].split(" 17").next(),
        Some("/: a directory, 0711 1:2")
    );
    assert_eq!(tree("layer\ndir 0711 0:0 .\nlayer\ndir 0700 0:0 .\nlayer\nopaque /\n"), ["/: a directory, 0700"]);
}

#[test]
fn whiteouts_take_out_what_is_below() {
    over("whiteout /d\nwhiteout /l", &["/f: a file with \"y\", 0600"]);
    over("whiteout /d/low\nwhiteout /f\nwhiteout /nothing", &["/d: a directory, 0700", "/l: a symlink to d, 0777"]);
    // An entry beats a whiteout, but what was in it is hidden.
    over(
        "whiteout /d\nwhiteout /f\nwhiteout /l\nfile 0644 0:0 /d/new z",
        &["/d: a directory, 0755 nobody's", "/d/new: a file with \"z\", 0644"],
    );
}

#[test]
fn opaque_directories_hide_what_is_below_and_keep_their_attributes() {
    let others = ["/f: a file with \"y\", 0600", "/l: a symlink to d, 0777"];
    over("opaque /d", &[&["/d: a directory, 0700"], &others[..]].concat());
    over("opaque /d\ndir 0711 0:0 /d", &[&["/d: a directory, 0711"], &others[..]].concat());
    over(
        "opaque /d\nfile 0644 0:0 /d/new z",
        &[&["/d: a directory, 0700", "/d/new: a file with \"z\", 0644"], &others[..]].concat(),
    );
    over("opaque /\ndir 0755 0:0 /d/e", &["/d: a directory, 0755 nobody's", "/d/e: a directory, 0755"]);
    // What a mark hides stays hidden when the layers above it fill the directory again.
    over(
        "opaque /d\nlayer\nfile 0644 0:0 /d/low z",
        &[&["/d: a directory, 0700", "/d/low: a file with \"z\", 0644"], &others[..]].concat(),
    );
}

#[test]
fn directories_merge_and_everything_else_replaces() {
    over(
        "dir 0711 0:0 /d\nfile 0644 0:0 /d/new z\nfile 0644 0:0 /f 2\nfifo 0600 0:0 /l",
        &[
            "/d: a directory, 0711",
            "/d/low: a file with \"x\", 0644",
            "/d/new: a file with \"z\", 0644",
            "/f: a file with \"2\", 0644",
            "/l: a fifo, 0600",
        ],
    );
    over(
        "file 0644 0:0 /d 1\ndir 0750 0:0 /f\nfile 0644 0:0 /l/x 2",
        &[
            "/d: a file with \"1\", 0644",
            "/f: a directory, 0750",
            "/l: a directory, 0755 nobody's",
            "/l/x: a file with \"2\", 0644",
        ],
    );
    // Nothing of a directory comes back with another one in its place.
    over("file 0644 0:0 /d 1\nlayer\ndir 0755 0:0 /d\nlayer\nwhiteout /f\nwhiteout /l", &["/d: a directory, 0755"]);
}

#[test]
fn directories_of_whiteouts_alone_are_not_there() {
    let all = [
        "/d: a directory, 0700",
        "/d/low: a file with \"x\", 0644",
        "/f: a file with \"y\", 0600",
        "/l: a symlink to d, 0777",
    ];
    over("whiteout /n/o/x\nwhiteout /f/x\nwhiteout /l/low\nopaque /n/p\nopaque /f\nopaque /l", &all);
    over("whiteout /d/n/x", &all);
    over("whiteout /d/low\nwhiteout /d/n/x", &["/d: a directory, 0700", all[2], all[3]]);
}

#[test]
fn hard_links_of_one_layer_stay_together() {
    over(
        "whiteout /d\nwhiteout /l\nfile 0644 0:0 /a 1\nhardlink /b -> a\nlayer\nfile 0644 0:0 /a 2",
        &["/a: a file with \"2\", 0644", "/b: a file with \"1\", 0644", "/f: a file with \"y\", 0600"],
    );
    over(
        "opaque /\nfile 0644 0:0 /a 1\nhardlink /b -> a\nhardlink /c -> b\nlayer\nwhiteout /a",
        &["/b: a file with \"1\", 0644", "/c: a file with \"1\", 0644, one file with /b"],
    );
}

#[test]
fn links_into_lower_layers_take_the_file_along() {
    let shown = |layers: &str| tree(&format!("{LOWER}layer\n{layers}\n")).join("\n");
    assert!(shown("hardlink /a -> l/low").contains("/d/low: a file with \"x\", 0644, one file with /a"));
    over(
        "opaque /\nhardlink /z -> d/low\nhardlink /y -> l/low",
        &["/y: a file with \"x\", 0644", "/z: a file with \"x\", 0644, one file with /y"],
    );
    // Its own place is hidden in each of the ways.
    for hiding in ["whiteout /d", "opaque /d", "file 0644 0:0 /d 1", "whiteout /d/low", "file 0644 0:0 /d/low 1"] {
        let lines = shown(&format!("{hiding}\nhardlink /z -> l/low"));
        assert!(lines.ends_with("/z: a file with \"x\", 0644"), "{hiding}: {lines}");
    }
    // One link over what the other would mean without it, and a link to itself through a symlink.
    over(
        "whiteout /d\nhardlink /f -> d/low\nhardlink /g -> f\nlayer\nwhiteout /l",
        &["/f: a file with \"x\", 0644", "/g: a file with \"x\", 0644, one file with /f"],
    );
    over(
        "whiteout /f\nhardlink /d/low -> l/low",
        &["/d: a directory, 0700", "/d/low: a file with \"x\", 0644", "/l: a symlink to d, 0777"],
    );
    // The target is what was there before this layer.
    over(
        "whiteout /f\nwhiteout /l\nfile 0644 0:0 /d/new z\nhardlink /m -> l",
        &[
            "/d: a directory, 0700",
            "/d/low: a file with \"x\", 0644",
            "/d/new: a file with \"z\", 0644",
            "/m: a symlink to d, 0777",
        ],
    );
}

#[test]
fn links_into_lower_layers_part_the_file_from_its_other_names() {
    let base = "layer\nfile 0644 0:0 /a 1\nhardlink /b -> a\nhardlink /c -> a\n";
    let lines = tree(&format!("{base}layer\nhardlink /x -> b\nhardlink /y -> b\nhardlink /z -> c\n"));
    assert_eq!(
        lines[1..],
        [
            "/a: a file with \"1\", 0644",
            "/b: a file with \"1\", 0644",
            "/c: a file with \"1\", 0644",
            "/x: a file with \"1\", 0644, one file with /b",
            "/y: a file with \"1\", 0644, one file with /b",
            "/z: a file with \"1\", 0644, one file with /c",
        ]
    );
}

#[test]
fn links_go_through_the_symlinks_of_lower_layers() {
    let base = "layer\nfile 0644 0:0 /d/e/f 1\nsymlink /d/up -> ../../../d\nsymlink /abs -> /d/up/./e\nsymlink /two -> abs//../up/e\n";
    for target in ["abs/f", "two/f", "d/up/e/f", "d/up/up/up/e/f"] {
        let lines = tree(&format!("{base}layer\nhardlink /z -> {target}\n")).join("\n");
        assert!(lines.contains("/z: a file with \"1\", 0644, one file with /d/e/f"), "{target}: {lines}");
    }
    let chain = |links: usize| {
        let symlinks: String = (0..links).map(|link| format!("symlink /s{link} -> s{}\n", link + 1)).collect();
        let last = format!("dir 0755 0:0 /s{links}\nfile 0644 0:0 /s{links}/f 1\n");
        [layer(&format!("{symlinks}{last}")), layer("hardlink /a -> s9/f\nhardlink /z -> s0/f")]
    };
    let merged = |layers: &[Layer; 2]| merge(&[&layers[0].tree, &layers[1].tree]).map(|_| ());
    merged(&chain(40)).unwrap();
    // Whether it was followed before, as from /s9, makes no difference.
    merged(&chain(41)).unwrap_err();
}

#[test]
fn links_to_nothing_and_to_directories_are_refused() {
    for (link, target) in [("/z", "nothing"), ("/z", "d"), ("/z", "f/x"), ("/a/b/z", "l/low/x"), ("/z", "loop/x")] {
        let base = layer("file 0644 0:0 /d/low x\nsymlink /l -> d\nfile 0644 0:0 /f y\nsymlink /loop -> loop");
        let upper = layer(&format!("hardlink {link} -> {target}"));
        let error = merge(&[&base.tree, &upper.tree]).unwrap_err();
        let expected =
            format!("the hard link {:?} has no target {target:?} in the layers below", link.trim_start_matches('/'));
        assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::InvalidLayer));
    }
    let base = layer("hardlink /z -> f");
    merge(&[&base.tree]).unwrap_err();
}

#[test]
fn devices_are_the_layers_that_something_is_left_of() {
    let base = layer("file 0644 0:0 /f 1\nfile 0644 0:0 /z 2");
    let gone = layer("file 0644 0:0 /g 1\nfile 0644 0:0 /empty \"\"\ndir 0755 0:0 /d");
    let top = layer("file 0644 0:0 /a 1\nwhiteout /g\nfile 0644 0:0 /f 3");
    let layers = [&base, &gone, &top];
    let merged = merge(&trees(&layers)).unwrap();
    assert_eq!(merged.devices, [2, 0]);
    layers::lines(&merged, &layers);
    // A layer that stands twice is one device.
    let layers = [&base, &top, &gone, &base];
    let merged = merge(&trees(&layers)).unwrap();
    assert_eq!(merged.devices, [1, 0, 2]);
    assert!(lines_of(&merged, &layers).contains("/f: a file with \"1\""));
}

/// A root with one file in it.
fn one_file(size: u64, chunks: &[u32]) -> Tree {
    let mut tree = Tree::default();
    let root = What::Directory(Directory::new(Named::Here, false));
    tree.add_inode(Inode { metadata: Metadata::IMPLIED, what: root }).unwrap();
    // Something before it.
    tree.add_chunks([7, 8]).unwrap();
    let data = Data::Chunks { device: 0, bits: 0, first: tree.add_chunks(chunks.iter().copied()).unwrap() };
    let file = tree.add_inode(Inode { metadata: Metadata::IMPLIED, what: What::File { size, data } }).unwrap();
    let name = tree.add_text(b"f").unwrap();
    tree.add_entries(InodeId::ROOT, vec![Entry { name, child: Child::Inode(file) }]).unwrap();
    tree
}

#[test]
fn chunks_are_copied_and_holes_lie_nowhere() {
    let content = |tree: &Tree| {
        let merged = merge(&[tree]).unwrap();
        let What::File { size, data } = merged.tree.inodes()[1].what else { panic!("no file") };
        let Data::Chunks { device, bits, first } = data else { return (0, Vec::new(), merged.devices) };
        (device, merged.tree.chunks(size, bits, first).to_vec(), merged.devices)
    };
    assert_eq!(content(&one_file(1025, &[5, HOLE, 3])), (1, vec![5, HOLE, 3], vec![0]));
    assert_eq!(content(&one_file(1024, &[HOLE, HOLE])), (0, vec![HOLE, HOLE], vec![]));
    assert_eq!(content(&one_file(0, &[])), (0, vec![], vec![]));
}

#[test]
fn sets_of_xattrs_follow_their_inodes() {
    let base =
        "layer\nfile 0644 0:0 /a 1 xattr:user.a=1\nfile 0644 0:0 /b 1 xattr:user.b=2\ndir 0755 0:0 /d xattr:user.d=3\n";
    let lines = tree(&format!("{base}layer\nfile 0644 0:0 /b 1 xattr:user.a=4\nfile 0644 0:0 /d/x 1\n"));
    assert_eq!(
        lines[1..],
        [
            "/a: a file with \"1\", 0644, user.a=\"1\"",
            "/b: a file with \"1\", 0644, user.a=\"4\"",
            "/d: a directory, 0755, user.d=\"3\"",
            "/d/x: a file with \"1\", 0644",
        ]
    );
}

#[test]
fn inodes_of_one_directory_are_neighbours() {
    let layer = layer("file 0644 0:0 /b/y 1\nfile 0644 0:0 /a/x 2\nfile 0644 0:0 /c 3\nfile 0644 0:0 /a/w/v 4");
    let merged = merge(&[&layer.tree]).unwrap();
    let mut names = vec![String::new(); merged.tree.inodes().len()];
    for inode in merged.tree.inodes() {
        let What::Directory(directory) = &inode.what else { continue };
        for entry in merged.tree.entries(directory) {
            let Child::Inode(id) = entry.child else { panic!("{entry:?}") };
            names[id.index()] = String::from_utf8_lossy(merged.tree.text(entry.name)).into_owned();
        }
    }
    assert_eq!(names, ["", "a", "b", "c", "w", "x", "v", "y"]);
}

#[test]
fn paths_may_be_deep() {
    let deep = vec!["d"; 1023].join("/");
    let lower = layer(&format!("dir 0700 0:0 /d\nfile 0644 0:0 /{deep}/f 1\nsymlink /l -> {deep}"));
    let upper = layer(&format!("file 0644 0:0 /{deep}/g 1\nhardlink /z -> l/f"));
    let layers = [&lower, &upper];
    let lines = lines_of(&merge(&trees(&layers)).unwrap(), &layers);
    assert!(lines.contains(&format!("/z: a file with \"1\", 0644 0:0 1704067200.000000000, one file with /{deep}/f")));
    assert_eq!(lines.lines().count(), 1 + 1023 + 4);
}

#[test]
fn random_stacks_are_what_the_model_says() {
    let (mut merged_count, mut dangling) = (0, 0);
    for seed in 0..1000 {
        let mut stack = stacks::order_free(&stacks::stack(seed));
        for entry in stack.iter_mut().flatten() {
            // Which xattrs are taken is said before.
            let takes = matches!(entry.kind, Kind::Directory | Kind::File(_));
            entry.xattrs.retain(|(name, _)| takes && ["user.k", "user.overlayer"].contains(&name.as_str()));
        }
        let Some(layers) = stack.iter().map(|entries| Layer::new(entries)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let layers: Vec<_> = layers.iter().collect();
        let recipe = || format!("seed {seed}:\n{}", stacks::recipe(&stack));
        match (merge(&trees(&layers)), model::merged(&stack, Namespace::Trusted)) {
            (Ok(merged), Ok(model)) => {
                merged_count += 1;
                assert_eq!(lines_of(&merged, &layers), model.to_string(), "{}", recipe());
            }
            (Err(_), Err(_)) => dangling += 1,
            (Ok(_), Err(refused)) => {
                let links = ["a hard link to nothing", "a hard link to a directory", "too many symlinks"];
                assert!(!links.contains(&refused.0), "{}", recipe());
            }
            (Err(error), Ok(_)) => panic!("{error}: {}", recipe()),
        }
    }
    assert!(merged_count > 500 && dangling > 10, "{merged_count} were merged, {dangling} refused");
}
