//! Places that hold images already.

use std::time::Duration;

use super::probe::{Outcome, Probe, Shortcoming, Subject, Weight};
use crate::source::Docker;

/// An engine on this machine answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn probe(docker: &Docker) -> Probe {
    let outcome = match docker.look(PATIENCE) {
        Ok(Some(engine)) => Outcome::Works(format!(
            "{}, API {}, storage driver {}",
            engine.endpoint, engine.api_version, engine.storage
        )),
        Ok(None) => Outcome::NotNeeded("there is none, and images come from elsewhere".to_owned()),
        Err(error) => {
            Outcome::Fails(Shortcoming::of(Weight::Impairs, &error, "images that Docker holds are not found"))
        }
    };
    Probe::new(Subject::Docker, outcome)
}
