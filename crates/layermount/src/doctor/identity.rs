//! Who the caller is.

use rustix::thread::{CapabilitySet, capabilities};

use super::namespace::current_counts;
use super::probe::{Outcome, Probe, Subject};
use crate::caller::Caller;

/// What makes a difference.
const CAPABILITIES: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::MKNOD, "CAP_MKNOD"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
];

pub(super) fn probe(caller: &Caller) -> Probe {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let who = if caller.is_privileged() {
        "root of the machine".to_owned()
    } else if !caller.needs_user_namespace() {
        let (users, groups) = current_counts();
        format!("root of a user namespace, which maps {users} uids and {groups} gids")
    } else if uid.is_root() {
        "root without the privileges of root, who does as ordinary users do".to_owned()
    } else {
        "an ordinary user".to_owned()
    };
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let held = CAPABILITIES.iter().filter(|(capability, _)| effective.contains(*capability));
    let held: Vec<_> = held.map(|(_, name)| *name).collect();
    let held = if held.is_empty() { "no capability that matters".to_owned() } else { held.join(" ") };
    let found = format!("uid {}, gid {}: {who}; {held}", uid.as_raw(), gid.as_raw());
    Probe::new(Subject::Caller, Outcome::Works(found))
}
