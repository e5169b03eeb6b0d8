//! What is mounted into an image's tree: binds, memory, volumes, devices; and the groups that a program can be put into.

#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

mod forked;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use forked::*;
use layermount::{Access, BindOptions, Command, ErrorKind, Furnish, Overlay, Tmpfs, Upper};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

fn main() -> ExitCode {
    run_cases(&cases! {
        Root tmpfs_is_as_it_was_asked_for
        Root binds_are_as_they_were_asked_for
        Root the_order_of_mounts_does_not_matter
        Root proc_cannot_be_covered
        Root links_of_the_image_lead_nowhere_else
        Root volumes_begin_with_the_images_files
        Root volumes_take_the_images_files_alone
        Root volumes_that_cannot_be_filled_are_an_error
        Root a_process_that_moves_in_gets_the_same
        Root devices_are_given
        Root shared_memory_has_a_size
        Root groups_are_added
        Stranger rootless_mounts
    })
}

fn with(furnish: Furnish, script: &str) -> Command {
    let mut command = sh(script);
    command.furnish(furnish);
    command
}

/// What the script prints.
fn seen(furnish: Furnish, script: &str) -> String {
    output(shell(&[]), with(furnish, script)).0
}

fn refused(overlay: Overlay, furnish: Furnish) -> layermount::Error {
    overlay.mount().unwrap().spawn(with(furnish, "true")).unwrap_err()
}

/// The options of a mount, as `/proc/self/mountinfo` has them: its own, its file system, and that's.
fn options(path: &str) -> String {
    format!(
        "while read -r _ _ _ _ at own rest; do [ $at = {path} ] && echo $own ${{rest#*- }}; done </proc/self/mountinfo"
    )
}

fn layer(at: &Path) -> PathBuf {
    let layer = at.join("layer");
    put(&layer.join("vol/deep/file"), "contents");
    put(&layer.join("vol/secret"), "secret");
    for (path, mode) in [("vol", 0o2751), ("vol/deep", 0o700), ("vol/secret", 0o4640)] {
        nix::unistd::chown(&layer.join(path), Some(1000.into()), Some(100.into())).unwrap();
        fs::set_permissions(layer.join(path), Permissions::from_mode(mode)).unwrap();
    }
    symlink("/vol", layer.join("link")).unwrap();
    symlink("deep/file", layer.join("vol/link")).unwrap();
    layer
}

fn tmpfs_is_as_it_was_asked_for() {
    let place = place();
    let layer = layer(place.path());
    let seen = |tmpfs: Tmpfs, script: &str| {
        let furnish = Furnish::default().tmpfs("/vol", tmpfs).tmpfs("/new/dir", tmpfs);
        output(shell(std::slice::from_ref(&layer)), with(furnish, script)).0
    };
    // As Docker does: the image's mode, not its owner, nothing that it has there.
    assert_eq!(
        seen(Tmpfs::new(), "stat -c '%a %u %g' /vol /new/dir /new; ls -A /vol; touch /vol/x && echo made"),
        "2751 0 0\n1777 0 0\n755 0 0\nmade"
    );
    assert_eq!(seen(Tmpfs::new(), &options("/vol")), "rw,nosuid,nodev,noexec,relatime tmpfs tmpfs rw");
    let all = Tmpfs::new().suid(true).dev(true).exec(true).access(Access::ReadOnly).mode(0o710).uid(5).gid(6);
    assert_eq!(
        seen(all.size(1 << 20).inodes(50), &options("/vol")),
        "ro,relatime tmpfs tmpfs rw,size=1024k,nr_inodes=50,mode=710,uid=5,gid=6"
    );
    assert_eq!(seen(all, "stat -c '%a %u %g' /vol /new/dir; touch /vol/x 2>/dev/null || echo refused"), {
        "710 5 6\n710 5 6\nrefused"
    });
    let small = Tmpfs::new().size(64 << 10);
    assert_eq!(seen(small, "dd if=/dev/zero of=/vol/x bs=1k count=100 2>/dev/null || stat -c %s /vol/x"), "65536");
    // On top of a link it lies where that leads.
    let furnish = Furnish::default().tmpfs("/link", Tmpfs::new());
    let script = format!("{}; ls -A /vol; readlink /link", options("/vol"));
    assert_eq!(
        output(shell(std::slice::from_ref(&layer)), with(furnish, &script)).0,
        "rw,nosuid,nodev,noexec,relatime tmpfs tmpfs rw\n/vol"
    );
    let error = refused(shell(&[]), Furnish::default().tmpfs("/etc/passwd", Tmpfs::new()));
    assert!(format!("{error:#}").contains("/etc/passwd") && error.hint().is_some(), "{error:#}");
}

fn binds_are_as_they_were_asked_for() {
    // Mounts of this case are its own.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let place = place();
    let data = place.path().join("data");
    put(&data.join("below/hidden"), "");
    mknod(&data.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    nix::mount::mount(Some("tmpfs"), &data.join("below"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    put(&data.join("below/mounted"), "");
    let bound = |options: BindOptions, script: &str| seen(Furnish::default().bind(&data, "/d", options), script);
    let flags = |options, path| {
        let text = bound(options, &self::options(path));
        text.split(' ').next().unwrap().split(',').filter(|word| *word != "relatime").collect::<Vec<_>>().join(",")
    };
    let (writable, readable) = (BindOptions::new(Access::ReadWrite), BindOptions::new(Access::ReadOnly));
    assert_eq!(flags(writable, "/d"), "rw,nodev");
    assert_eq!(flags(writable.suid(false).exec(false).dev(true), "/d"), "rw,nosuid,noexec");
    for path in ["/d", "/d/below"] {
        assert_eq!(flags(readable, path), "ro,nodev");
        assert_eq!(flags(readable.suid(false).exec(false), path), "ro,nosuid,nodev,noexec");
    }
    assert_eq!(bound(writable, "ls /d/below; (echo >/d/null) 2>/dev/null || echo refused"), "mounted\nrefused");
    assert_eq!(bound(writable.dev(true), "echo >/d/null && echo written"), "written");
    assert_eq!(bound(writable.recursive(false), "ls /d/below; touch /d/below/x"), "hidden");
    assert_eq!(
        bound(readable.recursive(false), "ls /d/below; touch /d/x 2>/dev/null || echo refused"),
        "hidden\nx\nrefused"
    );
    assert_eq!(
        seen(Furnish::default().privileged().bind(&data, "/d", Access::ReadWrite), "echo >/d/null && echo x"),
        "x"
    );
}

fn the_order_of_mounts_does_not_matter() {
    let place = place();
    let host = |name: &str| {
        put(&place.path().join(name).join(name), name);
        place.path().join(name)
    };
    let (one, two) = (host("one"), host("two"));
    let mounts: [&dyn Fn(Furnish) -> Furnish; 4] = [
        &|furnish| furnish.bind(&one, "/m", Access::ReadWrite),
        &|furnish| furnish.tmpfs("/m/t", Tmpfs::new()),
        &|furnish| furnish.bind(&two, "/m/t/a/b/", Access::ReadOnly),
        &|furnish| furnish.bind(one.join("one"), "/m/x/../t/a/b/c/../two", Access::ReadOnly),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
        let furnish = order.iter().fold(Furnish::default(), |furnish, mount| mounts[*mount](furnish));
        assert_eq!(
            seen(furnish, "ls /m /m/t/a/b; cat /m/t/a/b/two"),
            "/m:\none\nt\n\n/m/t/a/b:\ntwo\none",
            "{order:?}"
        );
    }
    // What layermount itself puts into /etc is one of them.
    let etc = place.path().join("etc");
    put(&etc.join("mine"), "mine");
    let furnish = Furnish::default().bind(&etc, "/etc", Access::ReadWrite);
    assert_eq!(seen(furnish, "cat /etc/mine; grep -c . /etc/hostname"), "mine1");
    let furnish = Furnish::default().bind(etc.join("mine"), "/etc/hosts", Access::ReadOnly);
    assert_eq!(seen(furnish, "cat /etc/hosts"), "mine");
    for (first, second) in [("/m", "/m/"), ("/m/a", "/m/b/../a"), ("/", "/..")] {
        let furnish = Furnish::default().tmpfs(first, Tmpfs::new()).bind(&one, second, Access::ReadOnly);
        let error = refused(shell(&[]), furnish);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(format!("{error:#}").starts_with("duplicate mount point: /"), "{error:#}");
    }
}

fn proc_cannot_be_covered() {
    let place = place();
    put(&place.path().join("file"), "told\n");
    let (file, directory) = (place.path().join("file"), place.path().to_owned());
    let layer = place.path().join("layer");
    fs::create_dir(&layer).unwrap();
    symlink("proc", layer.join("p")).unwrap();
    symlink("/proc/uptime", layer.join("up")).unwrap();
    symlink("/proc/self/root", layer.join("magic")).unwrap();
    let shell = || shell(std::slice::from_ref(&layer));
    let fails = |furnish: Furnish| {
        let error = refused(shell(), furnish);
        let text = format!("{error:#}");
        assert!(text.contains("cannot mount") && error.hint().is_some(), "{text}");
        text
    };
    for path in ["/proc", "/proc/1", "/proc/self", "/proc/thread-self/attr", "/proc/sys", "/proc/sys/kernel", "/p/1"] {
        assert!(fails(Furnish::default().bind(&directory, path, Access::ReadWrite)).contains("EPERM"), "{path}");
        assert!(fails(Furnish::default().tmpfs(path, Tmpfs::new())).contains("EPERM"), "{path}");
        assert!(fails(Furnish::default().volume(path)).contains("EPERM"), "{path}");
    }
    for path in ["/proc/1/environ", "/proc/self/attr/current", "/proc/version", "/p/1/environ", "/up", "/p/uptime"] {
        assert!(fails(Furnish::default().bind(&file, path, Access::ReadWrite)).contains("EPERM"), "{path}");
    }
    fails(Furnish::default().bind(&directory, "/proc/new", Access::ReadWrite));
    fails(Furnish::default().bind(&directory, "/magic/x", Access::ReadWrite));
    // Nor another one's.
    let furnish = Furnish::default().bind("/proc", "/host", Access::ReadOnly);
    assert!(fails(furnish.bind(&file, "/host/1/environ", Access::ReadOnly)).contains("EPERM"));
    let covered = Furnish::default().bind(&file, "/proc/uptime", Access::ReadOnly);
    let covered = covered.bind(&file, "/proc/meminfo", Access::ReadOnly);
    assert_eq!(output(shell(), with(covered, "cat /proc/uptime /up /proc/meminfo")).0, "told\ntold\ntold");
}

fn links_of_the_image_lead_nowhere_else() {
    let place = place();
    let layer = place.path().join("layer");
    put(&place.path().join("data/file"), "data");
    fs::create_dir(&layer).unwrap();
    symlink("../../../../../../tmp/layermount-escape", layer.join("up")).unwrap();
    symlink(place.path().join("outside"), layer.join("absolute")).unwrap();
    symlink("dev/shm/there", layer.join("shm")).unwrap();
    let script = "cat /up/file /absolute/deep/file /dev/shm/there/file /dev/deep/file; ls /tmp";
    let mut furnish = Furnish::default();
    for path in ["/up", "/absolute/deep", "/shm", "/dev/deep"] {
        furnish = furnish.bind(place.path().join("data"), path, Access::ReadOnly);
    }
    let found = output(shell(std::slice::from_ref(&layer)), with(furnish, script)).0;
    assert_eq!(found, "datadatadatadatalayermount-escape");
    assert!(!Path::new("/tmp/layermount-escape").exists() && !place.path().join("outside").exists());
    assert!(!Path::new("/dev/shm/there").exists() && !Path::new("/dev/deep").exists());
}

const VOLUMES: &str = "stat -c '%a %u %g %n' /vol /vol/deep /vol/deep/file /vol/secret /missing/dir; cat /link/link; \
                       touch /vol/deep/new /missing/dir/new && echo made; touch /vol/../x 2>/dev/null || echo refused";
const FOUND: &str = "2751 1000 100 /vol\n700 1000 100 /vol/deep\n644 0 0 /vol/deep/file\n4640 1000 100 /vol/secret\n\
                     755 0 0 /missing/dir\ncontentsmade\nrefused";

fn volumes_begin_with_the_images_files() {
    let place = place();
    let layer = layer(place.path());
    rustix::fs::setxattr(layer.join("vol/deep/file"), "user.x", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    let layers = [layer];
    let furnish = || Furnish::default().volume("/link").volume("/missing/dir").volume("/vol/deep");
    // A read-only tree.
    assert_eq!(output(shell(&layers).upper(Upper::ReadOnly), with(furnish(), VOLUMES)).0, FOUND);
    let script = format!("{}; {}", options("/vol"), options("/vol/deep"));
    let text = output(shell(&layers).upper(Upper::ReadOnly), with(furnish(), &script)).0;
    assert!(text.starts_with("rw,nodev,relatime tmpfs volume rw") && text.lines().count() == 2, "{text}");
    // One that is kept: what was written to a volume is not.
    let upper = || Upper::Persistent(place.path().join("upper"));
    for _ in 0..2 {
        let script = "ls /vol/deep; touch /vol/deep/new /kept";
        assert_eq!(output(shell(&layers).upper(upper()), with(furnish(), script)).0, "file");
    }
    let kept = place.path().join("upper/upper");
    assert!(kept.join("kept").exists() && !kept.join("vol/deep/new").exists());
    assert!(!layers[0].join("vol/deep/new").exists());
}

/// Only what the image has: not what the kernel or the host shows above.
fn volumes_take_the_images_files_alone() {
    let place = place();
    let data = place.path().join("data");
    put(&data.join("deep/of-the-host"), "");
    let layers = [layer(place.path())];
    symlink("sys/kernel", layers[0].join("kernel")).unwrap();
    let furnish = Furnish::default().volume("/vol/deep").volume("/kernel").bind(&data, "/vol", Access::ReadWrite);
    let script = "ls -A /vol /vol/deep; ls -A /sys/kernel; touch /vol/deep/new";
    let text = output(shell(&layers).upper(Upper::ReadOnly), with(furnish, script)).0;
    assert_eq!(text, "/vol:\ndeep\n\n/vol/deep:\nfile");
    assert!(!data.join("deep/new").exists());
}

fn volumes_that_cannot_be_filled_are_an_error() {
    let place = place();
    let layer = place.path().join("layer");
    put(&layer.join("large/file"), &"x".repeat(100 << 10));
    fs::create_dir_all(layer.join("deep").join("d/".repeat(70))).unwrap();
    let overlay = || shell(std::slice::from_ref(&layer)).upper(Upper::ReadOnly);
    for (volume, errno) in [("/large", "ENOSPC"), ("/deep", "ELOOP")] {
        let error = refused(overlay(), Furnish::default().volume(volume).volume_size(64 << 10));
        let text = format!("{error:#}");
        assert!(text.contains("volume") && text.contains(volume) && text.contains(errno), "{text}");
        assert!(error.hint().is_some());
    }
    let furnish = Furnish::default().volume("/large").volume_size(1 << 20);
    assert_eq!(output(overlay(), with(furnish, "stat -c %s /large/file")).0, "102400");
    let error = refused(overlay(), Furnish::default().volume("/etc/passwd"));
    assert!(format!("{error:#}").contains("ENOTDIR"), "{error:#}");
}

fn a_process_that_moves_in_gets_the_same() {
    let place = place();
    let furnish = Furnish::default()
        .volume("/vol")
        .tmpfs("/t", Tmpfs::new().mode(0o711))
        .bind(place.path(), "/d", Access::ReadOnly)
        .device("/dev/null", "/dev/other")
        .shm_size(1 << 20);
    let _inside = shell(&[layer(place.path())]).upper(Upper::ReadOnly).mount().unwrap().pivot_with(&furnish).unwrap();
    assert_eq!(fs::read_to_string("/vol/deep/file").unwrap(), "contents");
    fs::write("/vol/new", "").unwrap();
    assert!(fs::write("/new", "").is_err() && fs::write("/d/new", "").is_err());
    assert_eq!(fs::metadata("/t").unwrap().permissions().mode() & 0o7777, 0o711);
    fs::write("/dev/other", "x").unwrap();
    assert!(fs::write("/dev/shm/large", vec![0; 2 << 20]).is_err());
}

fn devices_are_given() {
    let place = place();
    let node = |name: &str, minor| {
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(1, minor)).unwrap();
        nix::unistd::chown(&path, Some(5.into()), Some(6.into())).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        path
    };
    let zero = node("zero", 5);
    node("many/a/null", 3);
    node("many/full", 7);
    let link = place.path().join("link");
    symlink("zero", &link).unwrap();
    let furnish = Furnish::default()
        .device(&link, "/dev/deep/er/zero")
        .device(&zero, "/elsewhere/zero")
        .device(place.path().join("many"), "/dev/many")
        .device("/dev/null", "/dev/null");
    let script = "stat -c '%a %u %g %t:%T %n' /dev/deep/er/zero /elsewhere/zero /dev/many/a/null /dev/many/full; \
                  for zero in /dev/deep/er/zero /elsewhere/zero; do dd if=$zero bs=3 count=1 2>/dev/null; done | stat -L -c %F -; \
                  (echo x >/dev/many/full) 2>/dev/null || echo full";
    let expected = "640 5 6 1:5 /dev/deep/er/zero\n640 5 6 1:5 /elsewhere/zero\n640 5 6 1:3 /dev/many/a/null\n\
                    640 5 6 1:7 /dev/many/full\nfifo\nfull";
    assert_eq!(seen(furnish.clone(), script), expected);
    // As a user that the mode does not let.
    let mut command = with(furnish, "dd if=/dev/deep/er/zero bs=1 count=1 2>/dev/null || echo refused");
    command.user("app");
    assert_eq!(output(shell(&[]), command).0, "refused");
    let furnish = Furnish::default().privileged().device(&zero, "/dev/mine").device("/dev/null", "/dev/null");
    assert_eq!(seen(furnish, "stat -c %t:%T /dev/mine"), "1:5");
    // Of the host's node, nothing changes.
    let furnish = Furnish::default().device(&zero, "/elsewhere/zero");
    assert_eq!(
        seen(furnish.clone(), "ls /bin/chmod 2>/dev/null; touch -d @5 /elsewhere/zero 2>/dev/null || echo refused"),
        "refused"
    );
    assert_eq!(furnish.to_string().lines().last().unwrap(), format!("/elsewhere/zero  device {}", zero.display()));
    for (host, inside, says) in [
        ("/no/such", "/dev/x", "/no/such"),
        ("/etc/passwd", "/dev/x", "not a device"),
        ("/etc", "/dev/x", "not a device"),
        ("/dev/null", "/dev/zero", "/dev/zero"),
        ("/dev/null", "/dev/fd/x", "/dev/fd/x"),
        ("/dev/null", "/etc", "EISDIR"),
        ("/dev/null", "/proc/self/environ", "EPERM"),
    ] {
        let error = refused(shell(&[]), Furnish::default().device(host, inside));
        assert!(format!("{error:#}").contains(says), "{host} {inside}: {error:#}");
    }
    let twice = Furnish::default().device("/dev/null", "/dev/x").device("/dev/zero", "/dev/x");
    assert_eq!(refused(shell(&[]), twice).kind(), ErrorKind::InvalidInput);
}

fn shared_memory_has_a_size() {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=65 2>/dev/null; stat -c %s /dev/shm/x";
    assert_eq!(seen(Furnish::default(), script), "67108864");
    assert_eq!(seen(Furnish::default().shm_size(1 << 20), script), "1048576");
}

fn groups_are_added() {
    let groups = |user: &str, added: &[&str]| {
        let mut command = sh("id -u; id -g; grep Groups /proc/self/status");
        command.user(user);
        for group in added {
            command.add_group(*group);
        }
        output(shell(&[]), command).0.replace("Groups:\t", "").replace(" \n", "\n").trim_end().replace('\n', " / ")
    };
    // As Docker has them: the user's own group is among the others.
    assert_eq!(groups("app", &[]), "1000 / 100 / 33 100");
    assert_eq!(groups("app", &["9", "users", "www"]), "1000 / 100 / 9 33 100");
    assert_eq!(groups("app:5", &["www"]), "1000 / 5 / 5 33");
    assert_eq!(groups("4321", &["3000000000", "0"]), "4321 / 0 / 0 3000000000");
    assert_eq!(groups("", &[]), "0 / 0 / 0");
    let mut command = sh("true");
    command.user("app:www").add_group("users").add_group("nobody-has-it");
    let error = shell(&[]).mount().unwrap().spawn(command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UserNotFound);
    assert!(format!("{error:#}").contains("\"nobody-has-it\""), "{error:#}");
    let mut command = sh("true");
    for group in 0..2000 {
        command.add_group(group.to_string());
    }
    assert_eq!(shell(&[]).mount().unwrap().spawn(command).unwrap_err().kind(), ErrorKind::InvalidImage);
}

/// Without the right to make device nodes, and with one user.
fn rootless_mounts() {
    let place = place();
    put(&place.path().join("data/file"), "data");
    nix::unistd::chown(place.path(), Some(STRANGER.into()), Some(STRANGER.into())).unwrap();
    nix::unistd::chown(&place.path().join("data"), Some(STRANGER.into()), Some(STRANGER.into())).unwrap();
    let overlay = rootless_shell();
    let copy = BASE.get().unwrap().join("stranger");
    put(&copy.join("vol/deep/file"), "contents");
    fs::set_permissions(copy.join("vol/deep"), Permissions::from_mode(0o751)).unwrap();
    let owned = std::process::Command::new("chown").args(["-R", &format!("{STRANGER}:{STRANGER}")]).arg(&copy).status();
    assert!(owned.unwrap().success());
    become_stranger();
    let furnish = Furnish::default()
        .bind(place.path().join("data"), "/t/d", BindOptions::new(Access::ReadWrite).suid(false).exec(false))
        .tmpfs("/t", Tmpfs::new().size(1 << 20))
        .volume("/vol")
        .device("/dev/null", "/dev/deep/null")
        .device("/dev/zero", "/elsewhere/zero")
        .shm_size(1 << 20);
    let script = "cat /t/d/file; touch /t/d/new /t/new && echo made; cat /vol/deep/file; stat -c '%a %u' /vol/deep; touch /vol/new; \
                  echo x >/dev/deep/null && dd if=/elsewhere/zero of=/dev/shm/x bs=1M count=2 2>/dev/null; stat -c %s /dev/shm/x; \
                  touch /x 2>/dev/null || echo refused";
    let (text, _) = output(overlay.upper(Upper::ReadOnly), with(furnish, script));
    assert_eq!(text, "datamade\ncontents751 0\n1048576\nrefused");
    assert!(place.path().join("data/new").exists());
    let error = refused(rootless_shell(), Furnish::default().tmpfs("/proc/self", Tmpfs::new()));
    assert!(format!("{error:#}").contains("EPERM"), "{error:#}");
    let mut command = sh("true");
    command.add_group("www");
    let error = rootless_shell().mount().unwrap().spawn(command).unwrap_err();
    assert!(format!("{error:#}").contains("setgroups") && error.hint().is_some(), "{error:#}");
}
