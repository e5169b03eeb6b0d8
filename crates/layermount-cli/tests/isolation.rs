//! What a program of `layermount run` is kept from: as docker's, and as the flags say.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

use std::process::Stdio;

use world::{World, docker, docker_host, root};

const STATUS: &str = "cat /proc/self/status";

/// A store and the reference of the image with a shell.
fn shell() -> Option<(World, String)> {
    root()?;
    let world = World::new();
    let layout = world.shell_layout()?;
    Some((world, format!("oci:{layout}:shell")))
}

/// What a script prints, whatever its status.
fn prints(world: &World, flags: &[&str], image: &str, script: &str) -> String {
    let mut command = world.layermount();
    let output = command.arg("run").args(flags).args([image, script]).stdin(Stdio::null()).output().unwrap();
    assert_ne!(output.status.code(), Some(125), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of `/proc/self/status` about privileges.
fn privileges(status: &str) -> Vec<&str> {
    let wanted = ["Cap", "NoNewPrivs:", "Seccomp:"];
    status.lines().filter(|line| wanted.iter().any(|wanted| line.starts_with(wanted))).collect()
}

#[test]
fn privileges_and_covered_paths_are_dockers() {
    let Some(host) = docker_host() else { return };
    let Some((world, image)) = shell() else { return };
    // The same files, as an image of docker's.
    let tree = world.path().join("tree");
    world.output(&["unpack", &image, tree.to_str().unwrap()]);
    let name = "layermount-test-isolation:latest";
    let tar = std::process::Command::new("tar").arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
    let file = world.path().join("tree.tar");
    std::fs::write(&file, tar.stdout).unwrap();
    docker(&host, &["import", file.to_str().unwrap(), name]);
    let docker_prints = |flags: &[&str], script: &str| {
        let run = ["run", "--rm", "--net", "host"];
        docker(&host, &[&run[..], flags, &[name, "/bin/busybox", "sh", "-c", script]].concat())
    };
    for flags in [
        &[][..],
        &["--user", "1000"],
        &["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"],
        &["--cap-drop", "ALL", "--cap-add", "KILL"],
        &["--cap-drop", "all", "--user", "1000", "--security-opt", "no-new-privileges"],
        &["--security-opt", "seccomp=unconfined"],
    ] {
        let theirs = docker_prints(flags, "busybox cat /proc/self/status");
        let as_root: &[&str] = if flags.contains(&"--user") { &[] } else { &["--user", "0"] };
        let ours = prints(&world, &[flags, as_root].concat(), &image, STATUS);
        assert_eq!(privileges(&ours), privileges(&theirs), "{flags:?}");
    }
    // Each with whether it is read-only. What newer versions of docker cover, this one may not.
    let script = "while read -r _ _ _ _ at options _; do case $at in /proc/*|/sys/firmware) echo $at ${options%%,*};; esac; done \
                  < /proc/self/mountinfo";
    let newer = ["/proc/interrupts", "/sys/devices/virtual/powercap"];
    let masks = |text: String| {
        let mut masks: Vec<String> = text.lines().map(str::to_owned).collect();
        masks.retain(|line| !newer.iter().any(|path| line.starts_with(path)));
        masks.sort();
        masks
    };
    let ours = masks(prints(&world, &["--user", "0"], &image, script));
    // A tmpfs takes the place of a file, too, in docker.
    let paths =
        |masks: &[String]| masks.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    let theirs = masks(docker_prints(&[], script));
    assert_eq!(paths(&ours), paths(&theirs), "{ours:?} {theirs:?}");
    docker(&host, &["rmi", "-f", name]);
}

#[test]
fn flags_say_what_a_program_may() {
    let Some((world, image)) = shell() else { return };
    let bits = |flags: &[&str]| {
        let status = prints(&world, &[&["--user", "0"], flags].concat(), &image, STATUS);
        privileges(&status).iter().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(bits(&["--cap-drop", "ALL", "--cap-add", "chown,KILL"])[1], "0000000000000021");
    assert_eq!(bits(&["--security-opt", "no-new-privileges=true"])[5], "1");
    assert_eq!(bits(&["--security-opt", "no-new-privileges:false"])[5], "0");
    let profile = world.path().join("profile.json");
    let refuse = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(&profile, refuse).unwrap();
    let option = format!("seccomp={}", profile.display());
    let text =
        prints(&world, &["--security-opt", &option, "--user", "0"], &image, "mkdir /x 2>&1; touch /y && echo made");
    assert!(text.contains("No space left") && text.ends_with("made\n"), "{text}");
    let open = "grep -c /proc/ /proc/self/mountinfo; cat /proc/interrupts | head -n 1";
    for all in ["unmask=ALL", "systempaths=unconfined"] {
        assert!(prints(&world, &["--security-opt", all], &image, open).starts_with("0\n"), "{all}");
    }
    let text = prints(&world, &["--security-opt", "unmask=/proc/interrupts:/proc/acpi"], &image, open);
    assert!(text.contains("CPU0") && !text.starts_with("0\n"), "{text}");
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let Some((world, image)) = shell() else { return };
    let fails = |flags: &[&str], says: &str| {
        let output = world.layermount().arg("run").args(flags).args([&image, "true"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(says), "{flags:?}: {stderr}");
    };
    fails(&["--cap-add", "NET-ADMIN"], "is not a capability");
    fails(&["--security-opt", "label=type:x"], "no such profiles or labels");
    fails(&["--security-opt", "nonsense"], "no-new-privileges");
    fails(&["--security-opt", "seccomp=/no/such"], "/no/such");
    let profile = world.path().join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction": "SCMP_ACT_ALLOW", "nonsense": 1}"#).unwrap();
    fails(&["--security-opt", &format!("seccomp={}", profile.display())], "nonsense");
}

/// CVE-2019-5736, where nothing but the link is needed: the library's tests have the other ways.
#[test]
fn the_binary_itself_is_no_program_of_an_image() {
    let Some(()) = root() else { return };
    let world = World::new();
    let tree = world.path().join("attack-tree");
    std::fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", tree.join("attack")).unwrap();
    std::fs::write(tree.join("script"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(tree.join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let image = format!("rootfs:{}", tree.display());
    for flags in [&[][..], &["--pid", "host"], &["--privileged"], &["--user", "1234"]] {
        for program in ["/attack", "/script"] {
            let output = world.layermount().arg("run").args(flags).args([&image, program]).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(126), "{flags:?} {program}: {stderr}");
            assert!(stderr.contains("a link of /proc"), "{flags:?} {program}: {stderr}");
        }
    }
}
