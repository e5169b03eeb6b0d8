//! One run, measured.

use std::path::Path;
use std::process::{Command as Process, Stdio as ProcessStdio};
use std::time::{Duration, Instant};

use layermount::{Command, ErrorKind, Overlay, StartPhase, Stdio, Upper};

use crate::args::BenchArgs;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// What is run when nothing is said.
const PROGRAM: &str = "/bin/true";

/// How long each phase took.
#[derive(Debug)]
pub(crate) struct Sample {
    phases: Vec<(&'static str, Duration)>,
}

impl Sample {
    pub(super) fn phases(&self) -> &[(&'static str, Duration)] {
        &self.phases
    }

    /// Does in this process what `layermount run` does.
    pub(super) fn take(session: &mut Session, typed: &str, args: &BenchArgs) -> Result<Self> {
        let mut watch = Watch::start();
        let image = session.resolve(typed, &args.choice)?;
        watch.lap("resolve");
        let stack = session.realize(&image, typed, &args.choice, &args.making)?.stack;
        watch.lap(if args.cold { "unpack" } else { "locate" });
        let mut upper = Upper::default();
        let scratch = if upper.needs_disk() { Some(session.store.scratch()?) } else { None };
        if let Some(scratch) = &scratch {
            upper = Upper::Persistent(scratch.path().to_owned());
        }
        let root = Overlay::new(stack).upper(upper).mount()?;
        watch.lap("mount");
        let mut command = Command::for_image(&image);
        match args.command() {
            [] => command.entrypoint([PROGRAM]),
            words => command.args(words),
        };
        // As `run` has it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).die_with_parent(true).timed(true);
        let mut child = root.spawn(command).map_err(explain)?;
        match child.timings() {
            Some(timings) => {
                watch.phases.extend(StartPhase::ALL.map(|phase| (phase.as_str(), timings.of(phase))));
                watch.last = Instant::now();
            }
            None => watch.lap("spawn"),
        }
        let status = child.wait()?;
        watch.lap("program");
        drop(child);
        if let Some(scratch) = scratch {
            scratch.remove()?;
        }
        check(status)?;
        let ready = watch.phases.iter().filter(|(name, _)| *name != "program").map(|(_, took)| *took).sum();
        // The overlay is mounted by this process or by the child.
        watch.merge("mount");
        watch.phases.push(("ready", ready));
        Ok(Self { phases: watch.phases })
    }

    /// Starts `layermount run` and waits for its end.
    pub(super) fn take_whole(&mut self, store: &Path, typed: &str, args: &BenchArgs) -> Result<()> {
        let mut run = Process::new("/proc/self/exe");
        run.args(["run", "--quiet", "--store"]).arg(store);
        if let Some(host) = &args.choice.host {
            run.arg("--host").arg(host);
        }
        if let Some(platform) = &args.choice.platform {
            run.arg("--platform").arg(platform.to_string());
        }
        match args.command() {
            [] => run.args(["--entrypoint", PROGRAM, typed]),
            words => run.args([typed, "--"]).args(words),
        };
        run.stdin(ProcessStdio::null()).stdout(ProcessStdio::null());
        let since = Instant::now();
        let status = run.status().map_err(|error| Failure::io("cannot start layermount", error))?;
        self.phases.push(("whole", since.elapsed()));
        check(status)
    }
}

fn check(status: std::process::ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let failure = Failure::new(ErrorKind::InvalidInput, format!("the program did not succeed: {status}"));
    Err(failure.with_hint("name one that ends by itself: layermount bench IMAGE -- PROGRAM [ARG]..."))
}

fn explain(error: layermount::Error) -> Failure {
    let failure = Failure::from(error);
    match failure.is(ErrorKind::ProgramNotFound) {
        true => failure.with_hint("name a program of the image that ends by itself: layermount bench IMAGE -- PROGRAM"),
        false => failure,
    }
}

struct Watch {
    last: Instant,
    phases: Vec<(&'static str, Duration)>,
}

impl Watch {
    fn start() -> Self {
        Self { last: Instant::now(), phases: Vec::new() }
    }

    fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.phases.push((name, now - self.last));
        self.last = now;
    }

    /// Makes one phase of all that have this name, where the first of them stands.
    fn merge(&mut self, name: &str) {
        let total = self.phases.iter().filter(|(other, _)| *other == name).map(|(_, took)| *took).sum();
        let mut seen = false;
        self.phases.retain_mut(|(other, took)| {
            if *other != name {
                return true;
            }
            *took = total;
            !std::mem::replace(&mut seen, true)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_one_name_are_one() {
        let second = Duration::from_secs(1);
        let mut watch = Watch::start();
        watch.phases = vec![("a", second), ("mount", second), ("b", second), ("mount", second * 2)];
        watch.merge("mount");
        assert_eq!(watch.phases, [("a", second), ("mount", second * 3), ("b", second)]);
    }
}
