//! Whether programs can be limited: by making a cgroup with limits, and removing it.

use super::probe::{Outcome, Probe, Shortcoming, Subject, Weight};
use crate::cgroup::Group;
use crate::error::Error;
use crate::resources::Resources;

pub(super) fn probe() -> Probe {
    // What nearly every program that is limited is limited in.
    let resources = Resources::new().memory(64 << 20).cpus(0.5).pids(100);
    let outcome = match Group::rehearse(&resources) {
        Ok(group) => {
            let versions = group.as_ref().map_or("", Group::versions);
            if let Some(group) = group {
                group.remove();
            }
            Outcome::Works(format!("memory, processors and processes, by {versions}"))
        }
        Err(error) => Outcome::Fails(Shortcoming::of(
            Weight::Impairs,
            &Error::from(error),
            "what a program uses of the machine cannot be limited (--memory, --cpus, --pids-limit)",
        )),
    };
    Probe::new(Subject::Limits, outcome)
}
