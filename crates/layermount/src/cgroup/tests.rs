#![allow(clippy::disallowed_methods, reason = "trees for tests are made by path")]

use std::fs;

use super::*;

fn hierarchy(version: Version, controllers: &[&str], mount: &Path, own: &str) -> Hierarchy {
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    Hierarchy { version, controllers, mount: mount.to_owned(), root: "/".into(), own: own.into() }
}

/// Files as the kernel has them in each cgroup of version 2, in a tree of plain directories.
fn tree_of_v2(cgroups: &[&str]) -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    for cgroup in cgroups {
        let path = top.path().join(cgroup);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        fs::write(path.join("cgroup.subtree_control"), "").unwrap();
    }
    top
}

#[test]
fn in_version_2_it_lies_beside_the_callers() {
    let top = Path::new("/sys/fs/cgroup");
    let at = |own: &str| place(&hierarchy(Version::V2, &[], top, own)).unwrap().display().to_string();
    assert_eq!(at("/"), "/sys/fs/cgroup");
    assert_eq!(at("/a"), "/sys/fs/cgroup");
    assert_eq!(at("/user.slice/a.scope"), "/sys/fs/cgroup/user.slice");
    let v1 = hierarchy(Version::V1, &["memory"], top, "/user.slice/a.scope");
    assert_eq!(place(&v1).unwrap(), top.join("user.slice/a.scope"));
    assert!(matches!(place(&hierarchy(Version::V2, &[], top, "/../x")), Err(CgroupError::Outside { .. })));
}

#[test]
fn controllers_are_handed_down_where_they_are_not() {
    let top = tree_of_v2(&["", "a", "a/b"]);
    let control = |cgroup: &str| top.path().join(cgroup).join("cgroup.subtree_control");
    fs::write(control(""), "memory pids\n").unwrap();
    fs::write(control("a"), "pids\n").unwrap();
    enable(top.path(), &top.path().join("a/b"), &[Controller::Memory, Controller::Pids]).unwrap();
    let text = |cgroup: &str| fs::read_to_string(control(cgroup)).unwrap();
    assert_eq!(
        (text("").as_str(), text("a").as_str(), text("a/b").as_str()),
        ("memory pids\n", "+memory", "+memory +pids")
    );
    fs::remove_file(control("a")).unwrap();
    let error = enable(top.path(), &top.path().join("a"), &[Controller::Cpu]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot hand the cpu controller down from {}", top.path().join("a").display())
    );
}

#[test]
fn plans() {
    let top = tree_of_v2(&["", "named"]);
    let missing = top.path().join("missing");
    let wants = |hierarchies: &[Hierarchy], needed: &[Controller], resources: &Resources| {
        plan(&Hierarchies(hierarchies.to_vec()), needed, resources).map(|plan| {
            plan.into_iter().map(|(hierarchy, want)| (hierarchy.own.display().to_string(), want)).collect::<Vec<_>>()
        })
    };
    let of = |own: &str, want| (own.to_owned(), want);
    let v1 = [
        hierarchy(Version::V1, &["memory"], &missing, "/m"),
        hierarchy(Version::V1, &["cpu", "cpuacct"], &missing, "/c"),
        hierarchy(Version::V1, &["freezer"], &missing, "/f"),
        hierarchy(Version::V1, &["name=systemd"], &missing, "/s"),
    ];
    let v2 = hierarchy(Version::V2, &[], top.path(), "/u");
    let hybrid = [&v1[..], std::slice::from_ref(&v2)].concat();
    let none = Resources::new();
    use Controller::{Cpu, Memory, Pids};
    assert_eq!(wants(&v1, &[Memory], &none).unwrap(), [of("/m", Want::Limits(vec![Memory])), of("/c", Want::Company)]);
    // What version 1 has is not taken from version 2.
    assert_eq!(
        wants(&hybrid, &[Cpu, Pids], &none).unwrap(),
        [of("/m", Want::Company), of("/c", Want::Limits(vec![Cpu])), of("/u", Want::Limits(vec![Pids]))]
    );
    assert_eq!(
        wants(std::slice::from_ref(&v2), &[Memory, Cpu], &none).unwrap(),
        [of("/u", Want::Limits(vec![Memory, Cpu]))]
    );
    assert!(matches!(wants(&v1, &[Pids], &none), Err(CgroupError::NoController { controller: Pids })));
    assert!(matches!(wants(&[], &[Memory], &none), Err(CgroupError::NoController { .. })));

    assert_eq!(
        wants(std::slice::from_ref(&v2), &[], &Resources::new().parent("/named")).unwrap(),
        [of("/u", Want::Parent)]
    );
    let absent = Resources::new().parent("/absent");
    assert!(matches!(wants(&hybrid, &[], &absent), Err(CgroupError::NoParent { .. })));
    assert!(wants(&v1, &[Memory], &absent).is_ok());
    for bad in ["", "relative", "/a/../b", "/..", "/a\0b"] {
        let bad = Resources::new().parent(bad);
        assert!(matches!(wants(&hybrid, &[Memory], &bad), Err(CgroupError::ParentPath { .. })), "{bad:?}");
    }
}

#[test]
fn a_file_that_the_kernel_lacks() {
    let top = tree_of_v2(&[""]);
    let set = |absence| set(top.path(), &Setting { file: "memory.swap.max", value: "1".to_owned(), absence });
    assert!(set(Absence::Tolerated).is_ok());
    assert!(matches!(set(Absence::NoSwap), Err(CgroupError::NoSwap)));
    assert!(matches!(set(Absence::Fails), Err(CgroupError::NoFile { file: "memory.swap.max", .. })));
    fs::write(top.path().join("memory.swap.max"), "").unwrap();
    set(Absence::NoSwap).unwrap();
    assert_eq!(fs::read_to_string(top.path().join("memory.swap.max")).unwrap(), "1");
}

#[test]
fn what_was_killed_is_counted_by_either_version() {
    for (version, file, text) in [
        (Version::V1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (Version::V2, "memory.events", "low 0\nhigh 0\nmax 13\noom 3\noom_kill 2\noom_group_kill 0\n"),
    ] {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("x");
        let directory = own::make(&path).unwrap();
        fs::write(path.join(file), text).unwrap();
        let member = Member { version, path, directory, names: Vec::new(), has_memory: true };
        let group = Group { members: vec![member], made_parents: MadeParents::default(), unified: true };
        assert_eq!(group.oom_kills(), 2, "{version:?}");
        assert!(matches!(group.view(), View::Unified(_)));
    }
}
