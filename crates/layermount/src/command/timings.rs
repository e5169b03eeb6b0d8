//! [`Timings`]: where the time of a start went.

use std::time::{Duration, Instant};

/// The parts of [`RootMount::spawn`](crate::RootMount::spawn), in the order in which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartPhase {
    /// The command is checked, the filter of system calls compiled, every system call of the child written down.
    Prepare,
    /// Until the child runs, in its namespaces.
    Clone,
    /// `/proc`, `/sys`, `/dev`, files in `/etc`, bind mounts, masks: made, and put in their places.
    Furnish,
    /// The overlay, where the child has to mount it: for a caller that may not.
    Mount,
    /// `pivot_root`, and the old root detached.
    Enter,
    /// User, groups, working directory, capabilities, filter.
    Become,
    /// `execve`, until the program's first instruction.
    Exec,
}

impl StartPhase {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::Prepare, Self::Clone, Self::Furnish, Self::Mount, Self::Enter, Self::Become, Self::Exec];

    /// One word, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Clone => "clone",
            Self::Furnish => "furnish",
            Self::Mount => "mount",
            Self::Enter => "enter",
            Self::Become => "become",
            Self::Exec => "exec",
        }
    }
}

/// How long each [`StartPhase`] took, by `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    parts: [Duration; StartPhase::ALL.len()],
}

impl Timings {
    /// How long one phase took; zero for one that did not happen.
    pub fn of(&self, phase: StartPhase) -> Duration {
        self.parts.get(phase as usize).copied().unwrap_or_default()
    }

    /// From the call to the program's first instruction.
    pub fn total(&self) -> Duration {
        self.parts.iter().sum()
    }
}

/// Measures phases, also in a child that shares the parent's memory: async-signal-safe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopWatch {
    last: Instant,
    timings: Timings,
}

impl StopWatch {
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), timings: Timings::default() }
    }

    /// What has passed since the last call belongs to this phase.
    pub(crate) fn lap(&mut self, phase: StartPhase) {
        let now = Instant::now();
        if let Some(part) = self.timings.parts.get_mut(phase as usize) {
            *part += now.duration_since(self.last);
        }
        self.last = now;
    }

    /// All phases, unless the child has kept them to itself.
    pub(crate) fn stop(mut self) -> Option<Timings> {
        self.lap(StartPhase::Exec);
        (!self.timings.of(StartPhase::Become).is_zero()).then_some(self.timings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_add_up() {
        let mut watch = StopWatch::start();
        assert_eq!(watch.stop(), None, "nobody has become a program");
        let pause = Duration::from_millis(2);
        for phase in [StartPhase::Furnish, StartPhase::Enter, StartPhase::Furnish, StartPhase::Become] {
            std::thread::sleep(pause);
            watch.lap(phase);
        }
        let timings = watch.stop().unwrap();
        assert!(timings.of(StartPhase::Furnish) >= 2 * pause && timings.of(StartPhase::Enter) >= pause);
        assert_eq!(timings.of(StartPhase::Mount), Duration::ZERO);
        assert_eq!(timings.total(), StartPhase::ALL.into_iter().map(|phase| timings.of(phase)).sum());
    }

    #[test]
    fn every_phase_has_its_place() {
        assert!(StartPhase::ALL.iter().enumerate().all(|(place, phase)| *phase as usize == place));
    }
}
