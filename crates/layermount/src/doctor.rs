//! What this machine can do for the calling user, and what to change where it cannot.
//!
//! ```no_run
//! use layermount::doctor::{Doctor, Outcome};
//!
//! let diagnosis = Doctor::default().examine();
//! println!("{}", diagnosis.run());
//! for probe in diagnosis.probes() {
//!     if let Outcome::Fails(shortcoming) = probe.outcome() {
//!         println!("{}: {}", probe.subject(), shortcoming.found());
//!     }
//! }
//! ```
//!
//! Everything is found out by doing it: namespaces are made in children that end at once, mounts are descriptors of theirs, and
//! what is tried on the store's file system is tried in a directory that is removed again. The calling process stays what and
//! where it is, nothing is left behind, and no probe keeps another from being made: it is [`Outcome::NotTried`] where it needs
//! what does not work.

mod engine;
mod identity;
mod kernel;
mod limits;
mod namespace;
mod newuidmap;
mod overlay;
mod probe;
mod store;

pub use probe::{Outcome, Probe, Shortcoming, Subject, Topic, Weight};

use std::fmt;
use std::path::PathBuf;

use crate::caller::Caller;
use crate::source::Docker;
use crate::store::{Backing, Store};

/// Examines the machine.
#[derive(Debug, Default)]
pub struct Doctor {
    store: Option<PathBuf>,
    docker: Docker,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    run: Running,
    probes: Vec<Probe>,
}

/// How a program can be run inside an image here. `Display` says it in a sentence's end: `as root, layers as EROFS files`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Running {
    /// With the users of the machine, as its root.
    AsRoot {
        /// What layers become in the store.
        backing: Backing,
    },
    /// In the user namespace that the caller is in, with those that its map has.
    InCallersNamespace {
        /// How many users there are.
        users: u32,
        /// How many groups.
        groups: u32,
    },
    /// In a new user namespace, with the caller as root and subordinate IDs (subuid(5)) as all others.
    WithSubordinates {
        /// How many users there are.
        users: u32,
        /// How many groups.
        groups: u32,
    },
    /// In a new user namespace, with the caller as root and nobody else.
    Alone,
    /// Not at all: a [`Weight::Prevents`] is among the probes.
    Impossible,
}

impl Doctor {
    /// Looks at this store in place of [`Store::default_path`].
    #[must_use]
    pub fn store(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = Some(path.into());
        self
    }

    /// Looks at this engine in place of the one that `docker` would talk to.
    #[must_use]
    pub fn docker(mut self, docker: Docker) -> Self {
        self.docker = docker;
        self
    }

    /// Makes all probes. They take some milliseconds together, unless an engine does not answer, which is waited for two seconds.
    ///
    /// A process that runs several threads may call this, too.
    pub fn examine(&self) -> Diagnosis {
        let caller = Caller::current();
        let mut probes = kernel::probes();
        probes.push(identity::probe(&caller));
        probes.push(limits::probe());
        let ids = namespace::probes(&caller, &mut probes);
        let overlay = overlay::probes(&caller, &probes);
        let kernel = overlay.kernel;
        probes.extend(overlay.probes);
        let path = self.store.clone().map_or_else(Store::default_path, Ok);
        let store = path.and_then(Store::open);
        probes.extend(store::probes(&store, &caller, kernel, ids.as_ref()));
        probes.push(engine::probe(&self.docker));
        let run = running(&caller, &probes, ids.map(|ids| ids.counts()));
        Diagnosis { run, probes }
    }
}

impl Diagnosis {
    /// How programs run here, as far as the probes tell.
    pub fn run(&self) -> Running {
        self.run
    }

    /// Every probe that there is, those of one [`Topic`] next to each other.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// The probe that keeps programs from running; the first, where there are several.
    pub fn obstacle(&self) -> Option<&Probe> {
        self.probes.iter().find(|probe| probe.prevents())
    }
}

impl Running {
    /// Whether programs can be run.
    pub fn is_possible(self) -> bool {
        self != Self::Impossible
    }

    /// A name that stays the same, for programs: `as_root`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsRoot { .. } => "as_root",
            Self::InCallersNamespace { .. } => "in_callers_namespace",
            Self::WithSubordinates { .. } => "with_subordinates",
            Self::Alone => "alone",
            Self::Impossible => "impossible",
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsRoot { backing: Backing::Erofs } => f.write_str("as root, with layers as EROFS files"),
            Self::AsRoot { .. } => f.write_str("as root, with layers as directories"),
            Self::InCallersNamespace { users: 1, groups: 1 } => {
                f.write_str("in the user namespace around this process, with root as the only user")
            }
            Self::InCallersNamespace { users, groups } => {
                write!(f, "in the user namespace around this process, with {users} users and {groups} groups")
            }
            Self::WithSubordinates { users, groups } => {
                write!(f, "in a user namespace of its own, with {users} users and {groups} groups")
            }
            Self::Alone => f.write_str("in a user namespace of its own, with root as the only user"),
            Self::Impossible => f.write_str("not at all"),
        }
    }
}

fn running(caller: &Caller, probes: &[Probe], mapped: Option<(u32, u32)>) -> Running {
    if probes.iter().any(Probe::prevents) {
        return Running::Impossible;
    }
    let works = |subject| probes.iter().any(|probe| probe.subject() == subject && probe.works());
    if caller.is_privileged() {
        let backing = if works(Subject::ErofsFiles) { Backing::Erofs } else { Backing::Directory };
        return Running::AsRoot { backing };
    }
    if !caller.needs_user_namespace() {
        let (users, groups) = namespace::current_counts();
        return Running::InCallersNamespace { users, groups };
    }
    mapped.map_or(Running::Alone, |(users, groups)| Running::WithSubordinates { users, groups })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Also of what the process is: the harness has threads, which keep it from moving into a namespace for good.
    #[test]
    fn everything_is_looked_at_once_and_nothing_stays() {
        let place = tempfile::tempdir().unwrap();
        let user = || std::fs::read_link("/proc/self/ns/user").unwrap();
        let before = user();
        let diagnosis = Doctor::default().store(place.path().join("store")).examine();
        assert_eq!(user(), before);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        let subjects: HashSet<_> = diagnosis.probes().iter().map(|probe| probe.subject().as_str()).collect();
        assert_eq!((subjects.len(), diagnosis.probes().len()), (17, 17), "{diagnosis:#?}");
        let topics: Vec<_> = diagnosis.probes().iter().map(|probe| probe.subject().topic().as_str()).collect();
        let mut grouped = topics.clone();
        grouped.dedup();
        assert_eq!(grouped, ["kernel", "user", "mounts", "store", "engines"]);
        assert_eq!(diagnosis.obstacle().is_none(), diagnosis.run().is_possible());
        let all = diagnosis.probes().iter().map(Probe::outcome);
        for shortcoming in
            all.filter_map(|outcome| if let Outcome::Fails(found) = outcome { Some(found) } else { None })
        {
            assert!(!shortcoming.found().is_empty() && !shortcoming.consequence().is_empty(), "{shortcoming:?}");
        }
    }
}
