//! `layermount enter`: a program beside one that runs inside an image.

use layermount::{Command, ErrorKind, Running};

use crate::args::{EnterArgs, Global};
use crate::failure::{Failure, Result};
use crate::report::Report;
use crate::run::{self, terminal};
use crate::signals::{Place, Signals, Supervision};
use crate::start::ExitCode;

pub(crate) fn enter(args: &EnterArgs, global: &Global) -> Result<ExitCode> {
    let plan = terminal::Plan::of(&args.streams)?;
    let variables = run::variables(&args.env_file, &args.env)?;
    let running = Running::of(number(args)?)?;
    let Some((program, arguments)) = args.command().split_first() else {
        return Err(Failure::usage("name a program: layermount enter PID -- sh"));
    };
    let mut command = Command::for_running(&running, program);
    command.args(arguments).die_with_parent(true);
    if let Some(plan) = &plan {
        command.env("TERM", plan.kind()).terminal(plan.size());
    }
    run::set_variables(&mut command, variables);
    if let Some(directory) = &args.workdir {
        command.current_dir(directory);
    }
    if let Some(user) = &args.user {
        command.user(user);
    }
    let signals = Signals::take()?;
    let mut child = running.spawn(command).map_err(explain)?;
    let terminal = plan.map(|plan| plan.connect(&mut child)).transpose()?.flatten();
    let report = Report::new(global);
    report.detail(&format!("the program runs as process {}", child.id()));
    let place = Place::joined(&child);
    let ended = signals.supervise(&mut child, Supervision { place, terminal, patience: None })?;
    Ok(run::exit_code(&ended))
}

/// Also as the content of a file, with the end of its line.
fn number(args: &EnterArgs) -> Result<u32> {
    let typed = args.process().to_string_lossy();
    typed.trim().parse().map_err(|_| Failure::usage(format!("{typed:?} is not a process ID")))
}

fn explain(error: layermount::Error) -> Failure {
    let failure = Failure::from(error);
    if failure.is(ErrorKind::Os) { failure.with_hint("the process may have ended meanwhile") } else { failure }
}
