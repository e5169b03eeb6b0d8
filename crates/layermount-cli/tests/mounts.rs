//! What `layermount run` mounts into the tree and gives of devices, and who the program is: as docker's, and as the flags say.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::path::Path;
use std::process::{Output, Stdio};

use world::{World, docker, docker_host, host_mounts, program, root};

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:/bin/sh\n77:x:78:79::/seventy:/bin/sh\n+::::::\n\
                      space : x : 60 : 61 :: /sp : /bin/sh\nneg:x:-1:0::/:/bin/sh\nno-end:x:95:96::/end:/bin/sh";
const GROUP: &str = "root:x:0:\nusers:x:100:app\nwww:x:33:app\nextra:x:200:app,root,77\nlast:x:300:root";

/// A tree with a shell, links, and a directory that is to be a volume.
fn tree(world: &World) -> String {
    let tree = world.path().join("tree");
    for directory in ["bin", "etc", "tmp", "srv", "vol/deep", "real"] {
        std::fs::create_dir_all(tree.join(directory)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).unwrap();
    for tool in ["sh", "cat", "stat", "ls", "touch", "grep", "df", "readlink", "id", "true", "test"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(tool)).unwrap();
    }
    std::fs::write(tree.join("etc/passwd"), PASSWD).unwrap();
    std::fs::write(tree.join("etc/group"), GROUP).unwrap();
    std::fs::write(tree.join("srv/file"), "srv\n").unwrap();
    std::fs::write(tree.join("vol/deep/file"), "contents\n").unwrap();
    std::os::unix::fs::symlink("/real", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", tree.join("dangling")).unwrap();
    let shell = "chown -R 5:6 vol; chmod 2770 vol; chmod 700 vol/deep; chown 1000:100 srv; chmod 751 srv; chmod 4711 vol/deep/file";
    let done = std::process::Command::new("sh").args(["-euc", shell]).current_dir(&tree).status().unwrap();
    assert!(done.success());
    tree.to_str().unwrap().to_owned()
}

/// A store and a tree.
fn shell() -> Option<(World, String)> {
    root()?;
    program("busybox")?;
    let world = World::new();
    let tree = tree(&world);
    Some((world, tree))
}

fn run(world: &World, flags: &[&str], words: &[&str]) -> Output {
    world.layermount().arg("run").args(flags).args(words).stdin(Stdio::null()).output().unwrap()
}

/// What a script prints, which must succeed.
#[track_caller]
fn prints(world: &World, flags: &[&str], script: &str) -> String {
    let Output { status, stdout, stderr } = run(world, flags, &["sh", "-c", script]);
    assert_eq!(status.code(), Some(0), "{flags:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Own options, and those of the file system, of each mount at these paths.
fn mounted(paths: &str) -> String {
    format!(
        "while read -r _ _ _ _ at own rest; do case $at in {paths}) echo $at $own ${{rest#*- }};; esac; done </proc/self/mountinfo"
    )
}

#[test]
fn what_is_seen_inside_is_what_docker_shows() {
    let Some(host) = docker_host() else { return };
    let Some((world, tree)) = shell() else { return };
    let name = "layermount-test-mounts:latest";
    let file = world.path().join("tree.tar");
    let tar = std::process::Command::new("tar").args(["-C", &tree, "-cf"]).arg(&file).arg(".").status().unwrap();
    assert!(tar.success());
    let volumes = "VOLUME /vol /link /missing/dir";
    docker(&host, &["import", "--change", volumes, file.to_str().unwrap(), name]);
    let data = world.path().join("data");
    std::fs::create_dir_all(data.join("below")).unwrap();
    std::fs::write(data.join("file"), "data\n").unwrap();
    let volume = |rest: &str| format!("{}{rest}", data.display());
    let (at_x, at_y, at_below) = (volume(":/x"), volume("/below:/x/y"), volume(":/x/y/../y/z"));
    let (link, dangling, up) = (volume(":/link"), volume(":/dangling/x"), volume(":/a/../../b:ro"));
    let (etc, dev, uptime) = (volume("/file:/etc/hosts"), volume("/file:/dev/foo"), volume("/file:/proc/uptime"));
    let mount = format!("type=bind,src={},dst=/m,readonly", data.display());
    let look = "ls -A /x /x/y /x/y/z";
    let stat = "stat -c '%a %u %g %F %n'";
    let groups = "id -u; id -g; echo $HOME; grep Groups /proc/self/status";
    let volumes = format!(
        "{stat} /vol /vol/* /vol/deep/* /link /real /missing /missing/dir; cat /vol/deep/file; \
         touch /vol/x /real/x /missing/dir/x && echo made; touch /new || echo refused"
    );
    let cases: &[(&[&str], &str)] = &[
        (&["-v", &at_below, "-v", &at_y, "-v", &at_x], look),
        (&["-v", &at_x, "-v", &at_y, "--tmpfs", "/x/y/t"], "ls -A /x /x/y; test -d /x/y/t && echo there"),
        (&["-v", &link, "-v", &dangling, "-v", &up], "ls -A /real /nowhere/x /b; readlink /link /dangling; touch /b/x"),
        (&["-v", &etc, "-v", &dev, "-v", &uptime], "cat /etc/hosts /dev/foo /proc/uptime"),
        (&["--mount", &mount], "ls /m; touch /m/x"),
        (&["--tmpfs", "/srv"], &format!("{stat} /srv; ls -A /srv; {}", mounted("/srv"))),
        (&["--tmpfs", "/new/dir"], &format!("{stat} /new /new/dir; {}", mounted("/new*"))),
        (&["--tmpfs", "/new:exec,size=1m,uid=5,gid=7"], &format!("{stat} /new; {}", mounted("/new"))),
        (&["--tmpfs", "/new:ro,suid,dev,mode=710"], &mounted("/new")),
        (&["--tmpfs", "/new:ro,rw,noexec,exec"], &mounted("/new")),
        (&["--tmpfs", "/link"], &format!("readlink /link; {}", mounted("/real"))),
        (&["--mount", "type=tmpfs,dst=/srv,ro,tmpfs-size=64k"], &format!("{stat} /srv; {}", mounted("/srv"))),
        (&["--read-only"], &volumes),
        (&["--read-only", "--tmpfs", "/vol"], &format!("ls -A /vol; {}", mounted("/vol"))),
        (&[], &volumes),
        (&["--shm-size", "1m"], "df /dev/shm"),
        (&["--shm-size", "0"], "df /dev/shm"),
        (
            &["--device", "/dev/null:/dev/a/b", "--device", "/dev/null"],
            &format!("{stat} /dev/a/b /dev/null; echo x >/dev/a/b"),
        ),
        (
            &["--device", "/dev/zero:/else/where:rw"],
            &format!("{stat} /else/where; test -c /else/where && echo x >/else/where"),
        ),
        (&["-u", "app"], groups),
        (&["-u", "app:123"], groups),
        (&["-u", "app:"], groups),
        (&["-u", ":www"], groups),
        (&["-u", "1000"], groups),
        (&["-u", "1234"], groups),
        (&["-u", "77"], groups),
        (&["-u", "78"], groups),
        (&["-u", "no-end"], groups),
        (&["-u", "2147483647"], groups),
        (&["--group-add", "www", "--group-add", "7"], groups),
        (&["--group-add", "www", "-u", "4321"], groups),
        (&["--group-add", "33", "-u", "app:5"], groups),
        (&["-u", "app", "-w", "/new/dir"], &format!("{stat} . ..; readlink /proc/self/cwd")),
        (&["--read-only", "-w", "/new/dir"], &format!("{stat} . ..; readlink /proc/self/cwd; touch x")),
        (&["--read-only", "-w", "/link/a/b"], &format!("{stat} . ..; readlink /proc/self/cwd; touch x && echo made")),
        (&["-u", "app", "-w", "/link/w"], &format!("{stat} . ..; readlink /proc/self/cwd")),
        (&["-u", "app", "-w", "/dangling/w"], &format!("{stat} . ..; readlink /proc/self/cwd")),
    ];
    for (flags, script) in cases {
        let script = format!("({script}) 2>&1; true");
        let theirs = docker(&host, &[&["run", "--rm", "--net", "host"], *flags, &[name, "sh", "-c", &script]].concat());
        let ours = prints(&world, &[&["--host", &host], *flags, &[name]].concat(), &script);
        assert_eq!(ours, theirs, "{flags:?}");
    }
    docker(&host, &["rmi", "-f", name]);
}

#[test]
fn volumes_are_fresh_or_ignored() {
    let Some((world, _)) = shell() else { return };
    let recipe = "volume /vol/ /missing /etc/link\nlayer\ncopy 0755 0:0 /bin/busybox /usr/bin/busybox\nsymlink /bin/sh -> busybox\n\
                  dir 0750 5:6 /vol\nfile 0640 7:8 /vol/file \"contents\\n\"\nsymlink /etc/link -> ../real\nfile 0644 0:0 /real/r \"r\\n\"\n";
    let image = layermount_fixtures::Recipe::parse(recipe).unwrap().build().unwrap();
    let layout = world.path().join("layout");
    layermount_fixtures::Layout::create(&layout).unwrap().add("image", &image).unwrap();
    let image = format!("oci:{}:image", layout.display());
    let upper = world.path().join("upper");
    let kept = |path: &str| upper.join("upper").join(path).exists();
    let keep = ["--upper", upper.to_str().unwrap()];
    let script = "cd /vol; /bin/busybox stat -c '%a %u %g' . file; for f in /vol/x /missing/x /real/x /x; do [ -e $f ] && echo $f; \
                  : >$f; done; :";
    let fresh = "750 5 6\n640 7 8\n";
    let none: &[&str] = &[];
    for flags in [none, &["--image-volume", "tmpfs"]] {
        assert_eq!(prints(&world, &[flags, &[&image]].concat(), script), fresh, "{flags:?}");
    }
    let output = run(&world, &["--image-volume", "ignore", &image], &["sh", "-c", "[ ! -e /missing ]"]);
    assert!(output.status.success());
    let before = host_mounts();
    for _ in 0..2 {
        let text = prints(&world, &[&keep[..], &["--image-volume", "tmpfs", &image]].concat(), script);
        assert!(text == fresh || text == format!("{fresh}/x\n"), "{text}");
        assert!(kept("x") && !kept("vol/x") && !kept("missing/x") && !kept("real/x"));
    }
    // The mount point of a missing one stays.
    let ignore = [&keep[..], &["--image-volume", "ignore", &image]].concat();
    assert_eq!(prints(&world, &ignore, script), format!("{fresh}/x\n"));
    // Whoever keeps changes keeps them all.
    let everything = [&keep[..], &[&image]].concat();
    assert_eq!(prints(&world, &everything, script), format!("{fresh}/vol/x\n/missing/x\n/real/x\n/x\n"));
    assert_eq!(prints(&world, &ignore, script), format!("{fresh}/vol/x\n/missing/x\n/real/x\n/x\n"));
    // What is mounted there by name is no volume.
    let data = world.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let volume = format!("{}:/vol", data.display());
    let output =
        run(&world, &["--read-only", "-v", &volume, "--tmpfs", "/missing", &image], &["sh", "-c", ": >/vol/mine"]);
    assert!(output.status.success() && data.join("mine").exists());
    assert_eq!(host_mounts(), before);
}

#[test]
fn words_of_nspawn() {
    let Some((world, tree)) = shell() else { return };
    let data = world.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let shown = data.to_str().unwrap();
    let flags = ["-D", &tree, "--ephemeral", "--bind", shown, "--bind-ro", &format!("{shown}:/ro")];
    let script = format!(": >{shown}/file; ls /ro; (: >/ro/x) 2>/dev/null || echo refused; : >/lost");
    assert_eq!(prints(&world, &flags, &script), "file\nrefused\n");
    assert!(!Path::new(&tree).join("lost").exists() && data.join("file").exists());
    for flag in ["--template", "--directory"] {
        assert_eq!(prints(&world, &[flag, &tree], "cat /srv/file"), "srv\n");
    }
    let output = run(&world, &["-D", &tree], &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("no program to run"), "{stderr}");
}

#[test]
fn what_cannot_be_is_said_in_a_line() {
    let Some((world, tree)) = shell() else { return };
    let data = world.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let data = data.to_str().unwrap();
    let volume = |rest: &str| format!("{data}{rest}");
    let before = host_mounts();
    let fails = |flags: &[&str], says: &[&str]| {
        let output = run(&world, &[&["-D", &tree], flags].concat(), &["sh", "-c", "echo ran"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{flags:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{flags:?}");
        let line = stderr.lines().next().unwrap_or_default();
        for part in says {
            assert!(stderr.contains(part), "{flags:?}: {part:?} is not in {stderr}");
        }
        assert!(line.starts_with("layermount: ") && line.len() < 250, "{flags:?}: {line}");
    };
    fails(&["-v", "/no/such:/x"], &["/no/such", "No such file"]);
    fails(&["--mount", "type=bind,src=/no/such,dst=/x"], &["/no/such"]);
    fails(&["--bind", "/no/such"], &["/no/such"]);
    fails(&["-v", &volume(":x")], &["begin with /"]);
    fails(&["-v", &volume(":/")], &["root directory"]);
    fails(&["-v", &volume(":/x/..")], &["mount", "root directory"]);
    fails(&["-v", &volume(":/x:rshared")], &["rshared"]);
    fails(&["-v", &volume(":/x:nonsense")], &["nonsense", "[no]exec"]);
    fails(&["-v", &volume(":/x"), "--tmpfs", "/x/"], &["duplicate mount point: /x"]);
    fails(&["--mount", "type=tmpfs,dst=/x", "--tmpfs", "/y/../x"], &["duplicate mount point: /x"]);
    fails(&["-v", &volume(":/etc/passwd")], &["/etc/passwd", "ENOTDIR"]);
    fails(&["-v", &volume(":/proc/1")], &["/proc/1", "EPERM", "the kernel's"]);
    fails(&["-v", &volume(":/proc/new")], &["/proc/new"]);
    fails(&["--tmpfs", "/proc/sys"], &["/proc/sys", "EPERM"]);
    fails(&["--tmpfs", "x"], &["begin with /"]);
    fails(&["--tmpfs", "/x:size=lots"], &["512m"]);
    fails(&["--mount", "type=volume,src=x,dst=/x"], &["no volumes"]);
    fails(&["--mount", "type=bind,dst=/x"], &["src=SRC is missing"]);
    fails(&["--image-volume", "anonymous"], &["tmpfs and ignore"]);
    fails(&["--device", "/no/such"], &["/no/such"]);
    fails(&["--device", data], &["not a device"]);
    fails(&["--device", "/dev/null:r"], &["device cgroup"]);
    fails(&["--shm-size", "5x"], &["512m"]);
    fails(&["--group-add", "nobody-has-it"], &["no group \"nobody-has-it\""]);
    fails(&["--group-add", ""], &["not a group"]);
    fails(&["-u", "space "], &["no user \"space \""]);
    fails(&["-u", "+"], &["no user \"+\""]);
    fails(&["-u", "neg"], &["no user \"neg\""]);
    fails(&["-u", "4294967295"], &["4294967295"]);
    fails(&["-w", "/etc/passwd"], &["/etc/passwd"]);
    fails(&["-w", "/proc/new"], &["/proc/new"]);
    fails(&["--ephemeral", "--upper", data], &["--upper"]);
    assert_eq!(host_mounts(), before);
    assert_eq!(std::fs::read_dir(data).unwrap().count(), 0);
}
