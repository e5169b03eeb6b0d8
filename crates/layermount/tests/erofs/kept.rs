//! Images that stay mounted.

use std::os::fd::AsRawFd;
use std::path::Path;

use layermount::store::{Backing, PruneOptions};
use layermount::{ErrorKind, LayerStack};
use nix::mount::{MsFlags, mount};

use super::backings::{entries_of_files, read};
use super::{BASE, SINGLE, World, flip, realize_as};

/// A world whose kept mounts nobody else sees: this test's thread has mounts of its own.
fn world() -> Option<World> {
    let world = World::new()?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    Some(world)
}

/// The number of the file system that is the image.
fn device(stack: &LayerStack) -> u64 {
    nix::sys::stat::fstat(stack.layers()[0].directory()).unwrap().st_dev
}

/// What this thread sees mounted in the store.
fn kept(store: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(store.to_str().unwrap())).count()
}

fn places(store: &Path) -> usize {
    std::fs::read_dir(store.join("mounts")).unwrap().count()
}

#[test]
fn all_who_come_later_share_what_is_kept() {
    let Some(world) = world() else { return };
    for (tag, recipe) in [("single", SINGLE), ("image", BASE)] {
        let image = world.image(tag, recipe);
        let [first, second] = [(); 2].map(|()| world.realize(&image).0);
        assert_ne!(device(&first), device(&second), "each its own");
        assert!(world.store().keep_mounted(&image).unwrap(), "{tag}");
        assert!(!world.store().keep_mounted(&image).unwrap(), "{tag}: already");
        assert_eq!(kept(&world.path()), 1, "{tag}");
        let [first, second] = [(); 2].map(|()| world.realize(&image).0);
        assert_eq!(device(&first), device(&second), "{tag}");
        assert!(world.store().unmount(&image).unwrap(), "{tag}");
        assert!(!world.store().unmount(&image).unwrap(), "{tag}: not any more");
        assert_eq!((kept(&world.path()), places(&world.path())), (0, 0), "{tag}");
        assert_eq!(read(&first, "etc/motd"), b"hello\n", "{tag}: whoever has it goes on");
        assert_ne!(device(&world.realize(&image).0), device(&second), "{tag}");
    }
}

#[test]
fn nobody_can_run_anything_where_it_is_kept() {
    let Some(world) = world() else { return };
    let image = world.image("image", SINGLE);
    world.realize(&image);
    world.store().keep_mounted(&image).unwrap();
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(world.path().to_str().unwrap())).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,noexec,"), "{line}");
    assert_eq!(world.store().unmount_all().unwrap(), 1);
}

#[test]
fn prune_takes_the_mounts_along_that_no_image_needs() {
    let Some(world) = world() else { return };
    let (single, image) = (world.image("single", SINGLE), world.image("image", BASE));
    for image in [&single, &image] {
        world.realize(image);
        world.store().keep_mounted(image).unwrap();
    }
    world.store().record(&image).unwrap();
    assert_eq!(kept(&world.path()), 2);
    world.store().prune(&PruneOptions::default()).unwrap();
    assert_eq!((kept(&world.path()), places(&world.path())), (1, 1), "the other is needed");
    world.prune_in_time();
    assert_eq!((kept(&world.path()), places(&world.path()), world.shelf()), (0, 0, 0));
}

#[test]
fn what_was_kept_of_damaged_files_is_used_by_nobody() {
    let Some(world) = world() else { return };
    let image = world.image("image", BASE);
    world.realize(&image);
    world.store().record(&image).unwrap();
    world.store().keep_mounted(&image).unwrap();
    let damaged = device(&world.realize(&image).0);
    flip(&entries_of_files(&world.path(), &image)[0].join("image"), 4096 + 600);
    assert_eq!(world.damaged().len(), 2);
    let (stack, made) = world.realize(&image);
    assert_eq!(made, 1);
    assert_ne!(device(&stack), damaged, "another file by the same name");
    assert!(world.store().keep_mounted(&image).unwrap());
    assert_eq!(kept(&world.path()), 2);
    world.store().prune(&PruneOptions::default()).unwrap();
    assert_eq!((kept(&world.path()), places(&world.path())), (1, 1), "that of the file that is there");
    assert_ne!(device(&world.realize(&image).0), damaged);
    world.store().unmount_all().unwrap();
}

#[test]
fn what_lies_in_the_place_of_a_mount_is_not_taken_for_one() {
    let Some(world) = world() else { return };
    let image = world.image("image", SINGLE);
    world.realize(&image);
    world.store().keep_mounted(&image).unwrap();
    let place = std::fs::read_dir(world.path().join("mounts")).unwrap().next().unwrap().unwrap().path();
    // As after the machine's next start.
    nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH).unwrap();
    std::fs::write(place.join("file"), "not of the image").unwrap();
    let (stack, made) = world.realize(&image);
    assert_eq!((read(&stack, "etc/motd").as_slice(), made), (&b"hello\n"[..], 0));
    let entry = format!("/proc/self/fd/{}/file", stack.layers()[0].directory().as_raw_fd());
    assert!(!Path::new(&entry).exists());
    std::fs::remove_file(place.join("file")).unwrap();
    assert!(world.store().keep_mounted(&image).unwrap());
    assert_eq!(world.store().unmount_all().unwrap(), 1);
}

#[test]
fn what_is_cut_short_is_made_anew_although_it_is_kept() {
    let Some(world) = world() else { return };
    let image = world.image("image", BASE);
    world.realize(&image);
    world.store().keep_mounted(&image).unwrap();
    let file = entries_of_files(&world.path(), &image)[0].join("image");
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(4096).unwrap();
    let (stack, made) = world.realize(&image);
    assert_eq!((read(&stack, "etc/motd").as_slice(), made), (&b"hello\n"[..], 1));
    world.store().unmount_all().unwrap();
}

#[test]
fn what_is_not_ours_hinders_nobody() {
    let Some(world) = world() else { return };
    let image = world.image("image", SINGLE);
    world.realize(&image);
    world.store().keep_mounted(&image).unwrap();
    let place = std::fs::read_dir(world.path().join("mounts")).unwrap().next().unwrap().unwrap().path();
    world.store().unmount_all().unwrap();
    let works = |what: &str| {
        assert_eq!(read(&world.realize(&image).0, "etc/motd"), b"hello\n", "{what}");
        assert_eq!(world.store().unmount_all().unwrap(), 0, "{what}");
    };
    std::fs::write(&place, "a file").unwrap();
    works("a file");
    std::fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink("/", &place).unwrap();
    works("a link");
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir_all(place.join("etc")).unwrap();
    works("a copy of what was mounted");
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    mount(Some("x"), &place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    works("another file system");
    nix::mount::umount(&place).unwrap();
}

#[test]
fn a_mount_that_is_not_seen_here_stays_where_it_is() {
    let Some(world) = world() else { return };
    let image = world.image("image", SINGLE);
    world.realize(&image);
    world.store().keep_mounted(&image).unwrap();
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let place = std::fs::read_dir(world.path().join("mounts")).unwrap().next().unwrap().unwrap().path();
            nix::mount::umount(&place).unwrap();
            assert!(!world.store().unmount(&image).unwrap());
        });
        elsewhere.join().unwrap();
    });
    assert_eq!(kept(&world.path()), 1);
    assert!(world.store().unmount(&image).unwrap());
}

#[test]
fn many_at_once_keep_it_once() {
    let Some(world) = world() else { return };
    let image = world.image("image", SINGLE);
    world.realize(&image);
    for _ in 0..20 {
        let new: usize = std::thread::scope(|scope| {
            let keep = || usize::from(world.store().keep_mounted(&image).unwrap());
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(keep)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((new, kept(&world.path())), (1, 1));
        assert_eq!(world.store().unmount_all().unwrap(), 1);
    }
}

#[test]
fn what_is_no_file_system_is_refused() {
    let Some(world) = world() else { return };
    let image = world.image("image", BASE);
    let refused = || world.store().keep_mounted(&image).unwrap_err();
    assert_eq!(refused().kind(), ErrorKind::Unsupported, "it is not there");
    realize_as(&world.store(), &image, Backing::Directory).unwrap();
    assert_eq!(refused().kind(), ErrorKind::Unsupported, "{:#}", refused());
    assert!(refused().hint().unwrap().contains("shared"));
    assert!(!world.store().unmount(&image).unwrap());
    assert_eq!(world.store().unmount_all().unwrap(), 0);
}
