//! User namespaces and the users that can be in them.

use std::os::fd::OwnedFd;

use rustix::mount::MountAttrFlags;

use super::newuidmap;
use super::probe::{Outcome, Probe, Shortcoming, Subject, Weight};
use crate::caller::Caller;
use crate::error::Result;
use crate::script::{Refused, Script, Step, try_in_child};
use crate::userns::{IdMaps, IdRange, Obstacle, UserNamespace, size};

/// A user namespace with all users that are granted, for more to be tried in.
pub(super) struct MappedNamespace {
    namespace: UserNamespace,
}

impl MappedNamespace {
    /// How many users and groups it has.
    pub(super) fn counts(&self) -> (u32, u32) {
        let maps = self.namespace.maps();
        (size(maps.uids()), size(maps.gids()))
    }

    /// The namespace, and a user and a group that is none of the caller's own.
    pub(super) fn stranger(&self) -> Result<Option<(OwnedFd, u32, u32)>> {
        let last = |ranges: &[IdRange]| ranges.last().map(|range| range.inside + (range.count - 1));
        let maps = self.namespace.maps();
        let (Some(uid), Some(gid)) = (last(maps.uids()), last(maps.gids())) else { return Ok(None) };
        Ok(self.namespace.open()?.map(|namespace| (namespace, uid, gid)))
    }
}

/// Adds the probes, and returns what the programs of this user can have.
pub(super) fn probes(caller: &Caller, probes: &mut Vec<Probe>) -> Option<MappedNamespace> {
    let mut add = |subject, outcome| probes.push(Probe::new(subject, outcome));
    if !caller.needs_user_namespace() {
        let why = if caller.is_privileged() { "root has the machine's users" } else { "this process is in one" };
        for subject in [Subject::UserNamespaces, Subject::IdRanges, Subject::IdMaps] {
            add(subject, Outcome::NotNeeded(why.to_owned()));
        }
        return None;
    }
    let namespaces = user_namespaces(caller);
    let can_be_made = matches!(namespaces, Outcome::Works(_));
    add(Subject::UserNamespaces, namespaces);
    let consequence = "the image's other users are missing: their files belong to root, and no program can become them";
    let granted = match IdMaps::granted() {
        Ok(granted) => {
            let (users, groups) = (size(granted.uids()) - 1, size(granted.gids()) - 1);
            add(Subject::IdRanges, Outcome::Works(format!("{users} users and {groups} groups besides oneself")));
            granted
        }
        Err(error) => {
            add(Subject::IdRanges, Outcome::Fails(Shortcoming::of(Weight::Impairs, &error, consequence)));
            add(Subject::IdMaps, Outcome::NotTried(Subject::IdRanges));
            return None;
        }
    };
    if !can_be_made {
        add(Subject::IdMaps, Outcome::NotTried(Subject::UserNamespaces));
        return None;
    }
    match map(granted) {
        Ok(namespace) => {
            let by =
                if Caller::may_map_others() { "mapped by this process" } else { "newuidmap and newgidmap map them" };
            add(Subject::IdMaps, Outcome::Works(by.to_owned()));
            Some(MappedNamespace { namespace })
        }
        Err(error) => {
            let shortcoming = Shortcoming::of(Weight::Impairs, &error, consequence);
            add(
                Subject::IdMaps,
                Outcome::Fails(match newuidmap::remedy(&error) {
                    Some(remedy) => shortcoming.with_remedy(remedy),
                    None => shortcoming,
                }),
            );
            None
        }
    }
}

fn map(maps: IdMaps) -> Result<UserNamespace> {
    let mut namespace = UserNamespace::prepare(maps)?;
    namespace.wait()?;
    Ok(namespace)
}

/// With a mount in it, because there are machines that let namespaces be made and refuse what they are for.
fn user_namespaces(caller: &Caller) -> Outcome {
    let mut script = Script::new();
    caller.push_id_maps(&mut script);
    script.doing("make a private mount namespace").push(Step::MakePrivate);
    script.doing("mount a tmpfs");
    script.new_mount(c"tmpfs", vec![(c"source", c"layermount".to_owned())], MountAttrFlags::empty());
    match try_in_child(&script, nix::libc::CLONE_NEWNS | caller.clone_flags()) {
        Ok(()) => Outcome::Works("can be made, mapped and mounted in".to_owned()),
        Err(refusal) => Outcome::Fails(refused(caller, &refusal, "an ordinary user can run nothing in an image")),
    }
}

/// A step that keeps programs from running, with its reason.
pub(super) fn refused(caller: &Caller, refusal: &Refused, consequence: &str) -> Shortcoming {
    let shortcoming = Shortcoming::of(Weight::Prevents, &refusal.error, consequence);
    if caller.is_privileged() {
        return shortcoming;
    }
    match Obstacle::find(refusal.stage, refusal.errno) {
        Obstacle::Unknown => shortcoming.or_remedy(&Obstacle::Unknown.remedy()),
        obstacle => {
            let found = format!("{obstacle}: {}", shortcoming.found());
            Shortcoming::new(Weight::Prevents, found, consequence).with_remedy(obstacle.remedy())
        }
    }
}

/// How many users and groups there are in the namespace of this process.
pub(super) fn current_counts() -> (u32, u32) {
    IdMaps::of_process("self").map_or((0, 0), |maps| (size(maps.uids()), size(maps.gids())))
}
