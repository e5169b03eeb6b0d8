//! [`Group`]: the cgroups of one program, made for it and gone with it.
//!
//! ```text
//! parent                                   child
//!   own::remove_stale   of runs that were killed
//!   own::make           mkdir, flock
//!   limits written
//!   clone3(CLONE_INTO_CGROUP) ---------->  in the cgroup of version 2 from its first moment on
//!                                          writes "0" to each `tasks` of version 1
//!                                          unshare(CLONE_NEWCGROUP): the namespace's root is where it is now
//!                                          becomes the program
//!   waits for the child
//!   Group::remove       rmdir
//! ```
//!
//! Of the files through which a process moves, `tasks` with "0" (the calling thread itself) is the one for which the kernel takes no
//! lock that stops all forks of the machine: 30 µs, where `cgroup.procs` may take 10 ms. A child has one thread, so that it is the
//! same. Version 2 has no such file for this, and `clone3` instead (Linux 5.7).

mod error;
mod hierarchy;
mod own;
mod plan;
mod settings;

pub(crate) use error::CgroupError;

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::error::{SyscallContext as _, SyscallError};
use crate::resources::Resources;
use crate::script::write_all;
use hierarchy::{Hierarchies, Hierarchy, Version, words};
use plan::{Want, enable, place, plan};
use settings::{Absence, Setting, settings};

type Result<T, E = CgroupError> = std::result::Result<T, E>;

/// What the kernel can limit, as far as layermount has it limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Cpuacct,
    Cpuset,
    Pids,
}

impl Controller {
    /// Programs that look for their limits in version 1 (Java's virtual machine) want to see all of these or believe none.
    const SEEN_TOGETHER: [Self; 5] = [Self::Memory, Self::Cpu, Self::Cpuacct, Self::Cpuset, Self::Pids];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }
}

/// A parent is a path from the root of the hierarchy.
pub(crate) fn check_parent(path: &Path) -> Result<()> {
    if plan::is_cgroup_path(path) { Ok(()) } else { Err(CgroupError::ParentPath { path: path.to_owned() }) }
}

/// Whether there is version 2 alone.
pub(crate) fn is_unified() -> Result<bool> {
    Ok(Hierarchies::current()?.is_unified())
}

/// Whether the kernel limits memory and swap together.
pub(crate) fn counts_swap() -> Result<bool> {
    let hierarchies = Hierarchies::current()?;
    let Some(memory) = hierarchies.with(Controller::Memory) else { return Ok(false) };
    Ok(match memory.version {
        Version::V1 => memory.mount.join("memory.memsw.limit_in_bytes").exists(),
        // The root has no limits, and says nothing of swap.
        Version::V2 => memory.directory(&memory.own).is_none_or(|own| {
            own == memory.mount || !own.join("memory.max").exists() || own.join("memory.swap.max").exists()
        }),
    })
}

/// One cgroup in each hierarchy that is needed.
#[derive(Debug)]
pub(crate) struct Group {
    members: Vec<Member>,
    /// Behind the members, which lie in them.
    made_parents: MadeParents,
    unified: bool,
}

/// A cgroup, locked. Dropping it removes it if that can be done at once; whoever is still in it has it to himself, until the
/// next run finds it empty.
#[derive(Debug)]
struct Member {
    version: Version,
    path: PathBuf,
    directory: OwnedFd,
    /// How it is called below `/sys/fs/cgroup`.
    names: Vec<String>,
    has_memory: bool,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Cgroups above those of the program that were missing, from the top. They go with it, unless others are in them by then.
#[derive(Debug, Default)]
struct MadeParents(Vec<PathBuf>);

impl Drop for MadeParents {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = rustix::fs::rmdir(path);
        }
    }
}

/// What `/sys/fs/cgroup` is to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum View {
    /// The program's cgroup of version 2.
    Unified(CString),
    /// Names in a directory, and the cgroup that each shows.
    Several(Vec<(CString, CString)>),
}

/// What becomes of controllers that cgroups of version 2 have and do not hand down to those below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandingDown {
    /// They do from now on, as with every container runtime: it stays so.
    Enable,
    AsItIs,
}

impl Group {
    /// Makes the cgroups and writes the limits. `None` if nothing is limited.
    pub(crate) fn make(resources: &Resources) -> Result<Option<Self>> {
        Self::make_with(resources, HandingDown::Enable)
    }

    /// The same without a lasting effect on others: limits for which other cgroups had to hand a controller down first are not tried.
    pub(crate) fn rehearse(resources: &Resources) -> Result<Option<Self>> {
        Self::make_with(resources, HandingDown::AsItIs)
    }

    fn make_with(resources: &Resources, handing_down: HandingDown) -> Result<Option<Self>> {
        if resources.is_empty() {
            return Ok(None);
        }
        resources.check()?;
        let needed = settings::controllers(resources);
        if needed.is_empty() && resources.parent.is_none() {
            return Ok(None);
        }
        let hierarchies = Hierarchies::current()?;
        let plan = plan(&hierarchies, &needed, resources)?;
        let mut group =
            Self { members: Vec::new(), made_parents: MadeParents::default(), unified: hierarchies.is_unified() };
        let name = own::new_name().map_err(|cause| CgroupError::Look { cause })?;
        for (hierarchy, want) in plan {
            match (group.add(hierarchy, &want, resources, &name, handing_down), want) {
                (Ok(member), _) => group.members.push(member),
                (Err(_), Want::Company) => {}
                (Err(error), _) => return Err(error),
            }
        }
        Ok(Some(group))
    }

    fn add(
        &mut self,
        hierarchy: &Hierarchy,
        want: &Want,
        resources: &Resources,
        name: &str,
        handing_down: HandingDown,
    ) -> Result<Member> {
        let needed = if let Want::Limits(controllers) = want { &controllers[..] } else { &[] };
        let named = resources.parent.as_deref().filter(|parent| {
            !needed.is_empty() || hierarchy.directory(parent).is_some_and(|directory| directory.is_dir())
        });
        let parent = match named {
            Some(parent) => {
                let directory = hierarchy.directory(parent);
                let directory = directory.ok_or_else(|| CgroupError::ParentPath { path: parent.to_owned() })?;
                self.make_parents(hierarchy, &directory)?;
                directory
            }
            None => place(hierarchy)?,
        };
        let mut needed = needed.to_vec();
        match (hierarchy.version, handing_down) {
            (Version::V1, _) => {}
            (Version::V2, HandingDown::Enable) => enable(&hierarchy.mount, &parent, &needed)?,
            (Version::V2, HandingDown::AsItIs) => {
                let enabled = words(&parent.join("cgroup.subtree_control"));
                needed.retain(|controller| enabled.iter().any(|enabled| enabled == controller.name()));
            }
        }
        own::remove_stale(&parent);
        let member = make_member(hierarchy, &parent, name)?;
        if has_cpuset_of_v1(hierarchy) {
            take_over_cpuset(&parent, &member.path)?;
        }
        for controller in needed {
            for setting in settings(resources, controller, hierarchy.version) {
                set(&member.path, &setting)?;
            }
        }
        Ok(member)
    }

    fn make_parents(&mut self, hierarchy: &Hierarchy, directory: &Path) -> Result<()> {
        let mut at = hierarchy.mount.clone();
        for part in directory.strip_prefix(&hierarchy.mount).unwrap_or(directory).components() {
            let above = at.clone();
            at.push(part);
            match rustix::fs::mkdir(&at, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.made_parents.0.push(at.clone()),
                Err(_) if at.is_dir() => continue,
                Err(errno) => return Err(cannot_make(hierarchy, &above, &at, errno)),
            }
            if has_cpuset_of_v1(hierarchy) {
                take_over_cpuset(&above, &at)?;
            }
        }
        Ok(())
    }

    /// The cgroup for `CLONE_INTO_CGROUP`.
    pub(crate) fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        let v2 = self.members.iter().find(|member| member.version == Version::V2);
        v2.map(|member| member.directory.as_fd())
    }

    /// Files that the child, with its only thread, writes "0" to. Opened by the parent, which is whose permissions count. With
    /// `all`, it is not in the cgroup of version 2 yet.
    pub(crate) fn files_to_join(&self, all: bool) -> Result<Vec<OwnedFd>> {
        let file = |member: &Member| match member.version {
            Version::V1 => Some("tasks"),
            Version::V2 => all.then_some("cgroup.procs"),
        };
        let files = self.members.iter().filter_map(|member| Some(member.path.join(file(member)?)));
        let open = |path: PathBuf| {
            open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .syscall("open", || format!("{}, O_WRONLY", path.display()))
                .map_err(|cause| CgroupError::Open { path, cause })
        };
        files.map(open).collect()
    }

    /// For people.
    pub(crate) fn versions(&self) -> &'static str {
        let has = |version| self.members.iter().any(|member| member.version == version);
        match (has(Version::V1), has(Version::V2)) {
            (true, true) => "cgroup v1 and v2",
            (true, false) => "cgroup v1",
            _ => "cgroup v2",
        }
    }

    /// The program sees its own cgroup as the root, as with Docker where there is version 2 alone.
    pub(crate) fn wants_namespace(&self) -> bool {
        self.unified
    }

    pub(crate) fn view(&self) -> View {
        // What has a zero byte is no path that the kernel has told.
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let path = |member: &Member| text(member.path.as_os_str().as_bytes());
        match self.members.as_slice() {
            [member] if self.unified => View::Unified(path(member)),
            members => {
                let of = |member: &Member| {
                    let path = path(member);
                    let names: Vec<_> = member.names.iter().map(|name| (text(name.as_bytes()), path.clone())).collect();
                    names
                };
                View::Several(members.iter().flat_map(of).collect())
            }
        }
    }

    /// How many processes the kernel has killed because there was no more memory: `memory.events`, `memory.oom_control`.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some(member) = self.members.iter().find(|member| member.has_memory) else { return 0 };
        let file = match member.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = std::fs::read_to_string(member.path.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the cgroups when the program has ended. Processes that it has left behind (which takes a shared pid namespace) keep
    /// theirs, for a later run to remove.
    pub(crate) fn remove(self) {
        self.members.iter().for_each(|member| own::remove_soon(&member.path));
    }
}

/// Under this name, the same everywhere, unless somebody who cleaned up took it for a leftover in between.
fn make_member(hierarchy: &Hierarchy, parent: &Path, name: &str) -> Result<Member> {
    const ATTEMPTS: usize = 10;
    let mut path = parent.join(name);
    let mut result = own::make(&path);
    for _ in 1..ATTEMPTS {
        if !matches!(result, Err(Errno::EXIST | Errno::NOENT)) || !parent.is_dir() {
            break;
        }
        path = parent.join(own::new_name().map_err(|cause| CgroupError::Look { cause })?);
        result = own::make(&path);
    }
    let directory = result.map_err(|errno| cannot_make(hierarchy, parent, &path, errno))?;
    let mut names: Vec<String> = hierarchy.name().map(str::to_owned).into_iter().collect();
    names.extend(hierarchy.controllers.iter().filter(|name| !name.contains('=')).cloned());
    names.dedup();
    let has_memory = hierarchy.version == Version::V2 || hierarchy.controllers.iter().any(|name| name == "memory");
    Ok(Member { version: hierarchy.version, path, directory, names, has_memory })
}

fn cannot_make(hierarchy: &Hierarchy, parent: &Path, path: &Path, errno: Errno) -> CgroupError {
    let cause = SyscallError::new("mkdir", path.display().to_string(), errno);
    CgroupError::Make { parent: parent.to_owned(), version: hierarchy.version, cause }
}

fn has_cpuset_of_v1(hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers.iter().any(|name| name == "cpuset")
}

/// In version 1 nobody can enter a cpuset that has neither processors nor memory nodes, as a new one: cpuset(7).
fn take_over_cpuset(parent: &Path, child: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = words(&parent.join(file)).join(",");
        set(child, &Setting { file, value, absence: Absence::Fails })?;
    }
    Ok(())
}

fn set(cgroup: &Path, setting: &Setting) -> Result<()> {
    let Setting { file, value, absence } = setting;
    let path = cgroup.join(file);
    match (write(&path, value), absence) {
        (Ok(()), _) | (Err(Errno::NOENT), Absence::Tolerated) => Ok(()),
        (Err(Errno::NOENT), Absence::NoSwap) => Err(CgroupError::NoSwap),
        (Err(Errno::NOENT), Absence::Fails) => Err(CgroupError::NoFile { file, path: cgroup.to_owned() }),
        (Err(errno), _) => {
            let cause = SyscallError::new("write", format!("{}, {value:?}", path.display()), errno);
            Err(CgroupError::Set { file, value: value.clone(), cause })
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write_all(file.as_fd(), text.as_bytes())
}

#[cfg(test)]
mod tests;
