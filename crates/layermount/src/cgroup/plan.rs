//! In which hierarchies a program's cgroups are made, where in them, and what has to be so there.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::hierarchy::{Hierarchies, Hierarchy, Version, words};
use super::{CgroupError, Controller, write};
use crate::error::SyscallError;
use crate::resources::Resources;

type Result<T> = std::result::Result<T, CgroupError>;

/// How much a hierarchy matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// It has to enforce limits, by these controllers.
    Limits(Vec<Controller>),
    /// A parent was named, which exists in it.
    Parent,
    /// It is to be seen with others, if it can be had.
    Company,
}

/// Which hierarchies take part, and as what.
pub(super) fn plan<'a>(
    hierarchies: &'a Hierarchies,
    needed: &[Controller],
    resources: &Resources,
) -> Result<Vec<(&'a Hierarchy, Want)>> {
    if let Some(path) = resources.parent.as_ref().filter(|path| !is_cgroup_path(path)) {
        return Err(CgroupError::ParentPath { path: path.clone() });
    }
    let mut of_controllers = Vec::new();
    for controller in needed {
        let controller = *controller;
        of_controllers
            .push((hierarchies.with(controller).ok_or(CgroupError::NoController { controller })?, controller));
    }
    let want = |hierarchy: &Hierarchy| {
        let mine = of_controllers.iter().filter(|(other, _)| *other == hierarchy);
        let mine: Vec<_> = mine.map(|(_, controller)| *controller).collect();
        let parent = resources.parent.as_ref().and_then(|parent| hierarchy.directory(parent));
        let is_seen = |name: &String| Controller::SEEN_TOGETHER.iter().any(|controller| controller.name() == name);
        if !mine.is_empty() {
            Some(Want::Limits(mine))
        } else if parent.is_some_and(|parent| parent.is_dir()) {
            Some(Want::Parent)
        } else {
            hierarchy.controllers.iter().any(is_seen).then_some(Want::Company)
        }
    };
    let plan: Vec<_> =
        hierarchies.0.iter().filter_map(|hierarchy| want(hierarchy).map(|want| (hierarchy, want))).collect();
    match &resources.parent {
        Some(path) if plan.iter().all(|(_, want)| *want == Want::Company) => {
            Err(CgroupError::NoParent { path: path.clone() })
        }
        _ => Ok(plan),
    }
}

pub(super) fn is_cgroup_path(path: &Path) -> bool {
    let mut parts = path.components();
    let no_zero = !path.as_os_str().as_bytes().contains(&0);
    no_zero && parts.next() == Some(Component::RootDir) && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Where the new cgroup is made when nobody says otherwise.
pub(super) fn place(hierarchy: &Hierarchy) -> Result<PathBuf> {
    let Hierarchy { own, mount, .. } = hierarchy;
    let outside = || CgroupError::Outside { own: own.clone(), mount: mount.clone() };
    let directory = hierarchy.directory(own).ok_or_else(outside)?;
    Ok(match (hierarchy.version, directory.parent()) {
        // The caller is in its own, which therefore can have no controllers for others below.
        (Version::V2, Some(above)) if directory != *mount => above.to_owned(),
        _ => directory,
    })
}

/// Has every cgroup from the top down to `parent` hand the controllers to those below it.
pub(super) fn enable(top: &Path, parent: &Path, controllers: &[Controller]) -> Result<()> {
    let below = parent.strip_prefix(top).unwrap_or(Path::new(""));
    let mut at = top.to_owned();
    let mut on_the_way = vec![at.clone()];
    for part in below.components() {
        at.push(part);
        on_the_way.push(at.clone());
    }
    for path in on_the_way {
        let file = path.join("cgroup.subtree_control");
        let enabled = words(&file);
        let lacking = controllers.iter().map(|controller| controller.name());
        let lacking: Vec<_> = lacking.filter(|name| !enabled.iter().any(|enabled| enabled == name)).collect();
        if lacking.is_empty() {
            continue;
        }
        let text = lacking.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        write(&file, &text).map_err(|errno| {
            let cause = SyscallError::new("write", format!("{}, {text:?}", file.display()), errno);
            CgroupError::Enable { controllers: lacking.join(" and "), path: path.clone(), cause }
        })?;
    }
    Ok(())
}
