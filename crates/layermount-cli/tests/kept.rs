//! `layermount store mount` and `store umount`.

mod world;

use world::{Backing, World, erofs, private_mounts, root};

#[test]
fn a_program_starts_in_an_image_that_is_kept_mounted() {
    let (Some(()), Some(())) = (root(), erofs()) else { return };
    private_mounts();
    let world = World::with_backing(Backing::Erofs);
    let Some(layout) = world.shell_layout() else { return };
    let image = format!("oci:{layout}:shell");
    let said = world.output(&["store", "mount", &image]);
    assert!(said.contains("is mounted, until 'layermount store umount'"), "{said}");
    let name = world.output(&["images"]).lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(world.output(&["store", "mount", &name]).contains("was mounted already"));
    let kept = || {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(world.path().to_str().unwrap())).count()
    };
    assert_eq!(kept(), 1);
    for _ in 0..3 {
        assert_eq!(world.output(&["run", &name]), "from the image\n");
    }
    assert!(world.output(&["store", "prune"]).contains("0 layers"));
    assert_eq!(kept(), 1, "as the image is");
    assert_eq!(world.output(&["store", "umount", &name]), "1 image unmounted\n");
    assert_eq!(kept(), 0);
    assert_eq!(world.output(&["run", &name]), "from the image\n");
    for (arguments, expected) in [
        (vec!["store", "umount", &name], "is not kept mounted here"),
        (vec!["store", "mount", "rootfs:/"], "not in the store in EROFS files"),
    ] {
        let output = world.layermount().args(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(world.output(&["store", "umount", "--all"]), "0 images unmounted\n");
}
