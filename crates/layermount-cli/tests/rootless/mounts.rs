//! Mounts, volumes, devices and groups of `layermount run`, for somebody who can make no device nodes.

use crate::world::person::{Home, Otherwise};

#[test]
fn mounts_and_devices() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let data = home.directory("data");
    let volume = format!("{}:/t/data:nosuid,noexec", data.display());
    let flags = ["--tmpfs", "/t:size=1m,mode=750", "-v", &volume, "--device", "/dev/null:/dev/a/b", "--shm-size", "1m"];
    let script = "busybox stat -c '%a %u' /t; echo x >/dev/a/b && echo x >/t/data/file && busybox df /dev/shm | busybox grep -c 1024; \
                  busybox grep -c ' /t/data [a-z,]*nosuid,nodev,noexec' /proc/self/mountinfo";
    assert_eq!(home.prints(&[&["run"], &flags[..], &[&image, script]].concat()), "750 0\n1\n1\n");
    assert!(data.join("file").exists());
    let said = home.layermount(&[], &["run", "-v", &format!("{}:/proc/1", data.display()), &image, "true"]);
    said.assert(125, &["/proc/1", "the kernel's"]);
}

#[test]
fn volumes_have_the_owners_that_there_are() {
    let Some(home) = Home::new() else { return };
    if home.several().is_none() {
        return;
    }
    let recipe = "entrypoint /bin/sh -c\nvolume /vol\nlayer\ncopy 0755 0:0 /bin/busybox /usr/bin/busybox\nsymlink /bin/sh -> busybox\n\
                  dir 0750 33:33 /vol\nfile 0640 33:42 /vol/file \"contents\\n\"\n";
    let image = home.image("volumes", recipe);
    let script = "/bin/busybox stat -c '%a %u %g' /vol /vol/file; /bin/busybox cat /vol/file; : >/vol/new && echo made";
    let expected = "750 33 33\n640 33 42\ncontents\nmade\n";
    assert_eq!(home.prints(&["run", "--read-only", &image, script]), expected);
    // With one user alone, all of it is that one's.
    let said = home.layermount(&[Otherwise::NoRanges], &["run", "--read-only", &image, script]);
    assert_eq!(said.status, Some(0), "{}", said.stderr);
    assert!(said.stdout.ends_with("contents\nmade\n"), "{}", said.stdout);
}

#[test]
fn groups_are_those_of_the_ranges() {
    let Some(home) = Home::new() else { return };
    let Some(image) = home.several() else { return };
    let script = "busybox grep Groups: /proc/self/status";
    let text = home.prints(&["run", "--group-add", "33", "-u", "1:2", &image, script]);
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["Groups:", "2", "33"]);
    let said = home.layermount(&[Otherwise::NoRanges], &["run", "--group-add", "33", &image, script]);
    said.assert(125, &["setgroups", "subgid"]);
}
