//! What becomes of files that are not what was written.

use std::os::unix::fs::FileExt;
use std::path::Path;

use layermount::ErrorKind;
use layermount::store::Backing;

use super::backings::{entries_of_files, read};
use super::{BASE, SINGLE, TOP, World, is_in_files, paths, read_in, read_only, realize_as};

pub(crate) fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn cut(path: &Path, by: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - by).unwrap();
}

fn record(entry: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(entry.join("layer.json")).unwrap()).unwrap()
}

/// What is done to which of the image's files (0 is the base layer's, 3 the index), and how many layers have to be made anew.
type Case = (&'static str, usize, fn(&Path), usize);

const DAMAGE: &[Case] = &[
    ("a byte of an archive", 0, |entry| flip(&entry.join("image"), 4096 + 600), 1),
    ("a byte of a superblock", 0, |entry| flip(&entry.join("image"), 1024 + 40), 1),
    (
        "a byte behind an archive",
        0,
        |entry| {
            let archive = record(entry)["file"]["tar_size"].as_u64().unwrap();
            flip(&entry.join("image"), 4096 + archive.next_multiple_of(512) + 70);
        },
        1,
    ),
    ("a byte of an index", 3, |entry| flip(&entry.join("image"), entry.join("image").metadata().unwrap().len() - 1), 0),
    ("a layer cut short", 0, |entry| cut(&entry.join("image"), 4096), 1),
    ("an index cut short", 3, |entry| cut(&entry.join("image"), 512), 0),
    ("a layer without its file", 0, |entry| std::fs::remove_file(entry.join("image")).unwrap(), 1),
    ("a layer that is gone", 0, |entry| std::fs::remove_dir_all(entry).unwrap(), 1),
];

#[test]
fn damage_is_found_and_made_anew_under_those_who_use_it() {
    for (name, which, damage, anew) in DAMAGE {
        let Some(world) = World::new() else { return };
        let image = world.image("image", &format!("{BASE}{TOP}"));
        let entries = entries_of_files(&world.path(), &image);
        let before = read_only(world.realize(&image).0);
        assert_eq!(read_in(&before, "srv/data"), b"the second layer\n");
        assert!(world.damaged().is_empty(), "{name}");
        damage(&entries[*which]);
        let mut expected = vec![entries[*which].clone(), entries[3].clone()];
        expected.dedup();
        expected.retain(|entry| entry.exists());
        expected.sort();
        let verified = world.store().verify(&mut |_| ()).unwrap();
        assert_eq!(paths(&verified.damage), expected, "{name}: an index is damaged when a layer is");
        assert!(verified.marked.contains(&entries[3]) || name.starts_with("an index cut"), "{name}");
        assert_eq!(verified.in_use, verified.marked, "{name}: all are mounted");
        assert_eq!(world.damaged(), expected, "{name}: and stays it");
        assert!(world.store().layers().unwrap().len() == 3 - anew, "{name}");
        let (stack, made) = world.realize(&image);
        assert_eq!(made, *anew, "{name}");
        assert!(world.damaged().is_empty(), "{name}");
        for stack in [&before, &read_only(stack)] {
            assert_eq!(read_in(stack, "srv/data"), b"the second layer\n", "{name}");
            assert_eq!(read_in(stack, "srv/top"), b"the third layer\n", "{name}");
        }
        assert_eq!(std::fs::read_dir(world.path().join("stage")).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn a_file_that_was_cut_short_is_never_mounted() {
    let Some(world) = World::new() else { return };

    for (recipe, which, anew) in [(SINGLE, 0, 1), (BASE, 0, 1), (BASE, 1, 1), (BASE, 2, 0)] {
        let image = world.image("image", recipe);
        let (stack, _) = world.realize(&image);
        let big = read(&stack, "big");
        drop(stack);
        world.store().record(&image).unwrap();
        let entry = &entries_of_files(&world.path(), &image)[which];
        assert!(record(entry)["boot"].is_string(), "and it is this one");
        let stored = world.store().image_by_id(image.id()).unwrap().unwrap().into_image();
        for by in [512, 4096] {
            cut(&entry.join("image"), by);
            if anew > 0 {
                let error = world.store().realize(&stored).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::BlobNotFound, "{error:#}");
            }
            let (stack, made) = world.realize(&image);
            assert_eq!((made, read(&stack, "big") == big), (anew, true));
        }
        world.prune_all();
    }
}

#[test]
fn an_index_of_other_files_than_those_that_are_there_is_made_anew() {
    let Some(world) = World::new() else { return };
    let image = world.image("image", BASE);
    world.realize(&image);
    let index = &entries_of_files(&world.path(), &image)[2];
    for verified in [false, true] {
        let mut record = record(index);
        // As if a layer had been made anew by a release that writes longer files.
        let length = &mut record["file"]["devices"][0]["length"];
        *length = (length.as_u64().unwrap() - 4096).into();
        std::fs::write(index.join("layer.json"), record.to_string()).unwrap();
        assert!(!verified || world.damaged() == [index.clone()]);
        let (stack, made) = world.realize(&image);
        assert_eq!((read(&stack, "etc/motd").as_slice(), made), (&b"hello\n"[..], 0));
        assert!(world.damaged().is_empty());
    }
}

#[test]
fn an_image_whose_files_are_damaged_is_used_as_directories_if_it_is_there() {
    let Some(world) = World::new() else { return };
    let image = world.image("image", BASE);
    world.realize(&image);
    realize_as(&world.store(), &image, Backing::Directory).unwrap();
    world.store().record(&image).unwrap();
    let stored = world.store().image_by_id(image.id()).unwrap().unwrap().into_image();
    assert!(is_in_files(&world.realize(&stored).0));
    cut(&entries_of_files(&world.path(), &image)[0].join("image"), 512);
    let error = realize_as(&world.store(), &stored, Backing::Erofs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BlobNotFound, "{error:#}");
    assert!(!is_in_files(&world.realize(&stored).0), "nothing else is to be had");
    assert!(is_in_files(&world.realize(&image).0), "the place that it came from has it");
}
