//! `layermount run`: a program inside an image, in the foreground.

pub(crate) mod bundle;
mod confine;
mod life;
mod limits;
mod mounts;
mod network;
mod runtime;
mod sockets;
pub(crate) mod terminal;

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Instant;

use layermount::store::Scratch;
use layermount::{Command, Content, ErrorKind, Image, Namespaces, Network, Overlay, Platform, RootMount, Upper};

use crate::args::{EnvSetting, Global, RunArgs, Sharing};
use crate::failure::{Failure, Result};
use crate::report::Phase;
use crate::session::{Session, docker};
use crate::signals::{Ended, Place, Signals, Supervision};
use crate::start::ExitCode;
use crate::users::Entrance;
use sockets::Sockets;

pub(crate) fn run(args: &RunArgs, global: &Global) -> Result<ExitCode> {
    let typed = args.image();
    let typed = typed.to_str().ok_or_else(|| Failure::usage(format!("{typed:?} is not UTF-8")))?;
    let sockets = Sockets::open(&args.network)?;
    if args.runtime.runtime.is_some() {
        runtime::check(args, &sockets)?;
    }
    let variables = variables(&args.env_file, &args.env)?;
    let plan = terminal::Plan::of(&args.streams)?;
    let network = network::network(&args.network)?;
    let marks = life::Marks::make(&args.life)?;
    let entrance = Entrance::begin(args.userns.as_ref())?;
    let mut session = match &args.runtime.runtime {
        None => Session::open(global)?.entering(entrance),
        Some(runtime) => runtime::open_session(runtime, entrance, global)?,
    };
    session = session.durable(args.making.durable);
    if network.is_some() && args.network.network.is_none() {
        session.report.detail("-p: the program's network is pasta's");
    }
    let given = Given { variables, network, sockets, plan, marks };
    let image = session.resolve(typed, &args.choice)?;
    if !args.pin {
        return run_inside(args, typed, &mut session, &image, given);
    }
    if !lies_in_docker(&image) {
        session.report.warn("--pin: the image's layers do not lie in Docker, so nothing holds it there");
        return run_inside(args, typed, &mut session, &image, given);
    }
    let pin = docker(&args.choice)?.pin(&image)?;
    let result = run_inside(args, typed, &mut session, &image, given);
    if let Err(error) = pin.release() {
        session.report.warn(&format!("the image stays pinned until the next --pin: {error:#}"));
    }
    result
}

/// What was found out before the image is looked for.
#[derive(Debug)]
struct Given {
    variables: Vec<EnvSetting>,
    network: Option<Network>,
    sockets: Sockets,
    plan: Option<terminal::Plan>,
    marks: life::Marks,
}

/// A tree that somebody named by its directory is located, too, but has no layers.
fn lies_in_docker(image: &Image) -> bool {
    matches!(image.content(), Content::Located(_)) && !image.layers().is_empty()
}

fn run_inside(args: &RunArgs, typed: &str, session: &mut Session, image: &Image, mut given: Given) -> Result<ExitCode> {
    let Ready { root, mut command, scratch } = prepare(args, typed, session, image, &mut given)?;
    let Given { sockets, plan, marks, .. } = given;
    let patience = args.life.stop_timeout.and_then(|patience| patience.0);
    if let Some(runtime) = &args.runtime.runtime {
        let bundle = root.bundle(command).map_err(|error| explain(args, image, error))?;
        marks.bind_to_parent()?;
        let place = Place::contained(args.pid == Sharing::Private);
        let ended = runtime::run(runtime, bundle, session, Supervision { place, terminal: None, patience })?;
        scratch.map_or(Ok(()), Scratch::remove)?;
        return Ok(exit_code(&ended));
    }
    // Removed at the end.
    let _paths = sockets.give(&mut command);

    let since = Instant::now();
    // Before the program runs: whoever sees its first output may signal at once.
    let signals = Signals::take()?;
    marks.bind_to_parent()?;
    let mut child = root.spawn(command).map_err(|error| explain(args, image, error))?;
    let pidfile = marks.program_runs(&mut child)?;
    let terminal = plan.map(|plan| plan.connect(&mut child)).transpose()?.flatten();
    session.report.phase(Phase::Start, since, || format!("the program runs as process {}", child.id()));

    let since = Instant::now();
    let place = if args.pid == Sharing::Private { Place::new(args.life.init) } else { Place::shared(&child) };
    let ended = signals.supervise(&mut child, Supervision { place, terminal, patience })?;
    drop(pidfile);
    session.report.phase(Phase::End, since, || describe(&ended));
    limits::explain_end(&args.limited, &child, &session.report);
    if let Some(scratch) = scratch {
        // Its mount is the program's, and gone with it.
        drop(child);
        scratch.remove()?;
    }
    Ok(exit_code(&ended))
}

/// A tree, and what is to run in it.
struct Ready {
    root: RootMount,
    command: Command,
    /// What is written lies here, for as long as the tree is mounted.
    scratch: Option<Scratch>,
}

/// Takes the variables and the network that were given.
fn prepare(args: &RunArgs, typed: &str, session: &mut Session, image: &Image, given: &mut Given) -> Result<Ready> {
    warn_of_foreign_platform(session, image);
    let Given { variables, network, plan, marks, .. } = given;
    let mut command = command(args, image, std::mem::take(variables), plan.as_ref())?;
    marks.apply(&args.life, args.hostname.is_none() && args.uts == Sharing::Private, &mut command);
    if let Some(network) = network.take() {
        command.network(network);
    }
    let own = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
    let stack = session.realize(image, typed, &args.choice, &args.making)?.stack;
    if let Some(maps) = session.kept_ids() {
        command.user_namespace(maps);
        if args.user.is_none() {
            command.user(own);
        }
    }

    let since = Instant::now();
    let mut upper = upper(args);
    let scratch = if upper.needs_disk() { Some(session.store.scratch()?) } else { None };
    if let Some(scratch) = &scratch {
        upper = Upper::Persistent(scratch.path().to_owned());
    }
    let root = Overlay::new(stack).upper(upper).mount()?;
    session.report.phase(Phase::Mount, since, || "the layers and what is written are one tree".to_owned());
    Ok(Ready { root, command, scratch })
}

/// Variables that were asked for, in the order in which they take effect.
pub(crate) fn variables(files: &[PathBuf], settings: &[EnvSetting]) -> Result<Vec<EnvSetting>> {
    let mut variables = Vec::new();
    for file in files {
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| Failure::io(format!("cannot read {shown}"), error))?;
        variables.extend(EnvSetting::parse_file(&text).map_err(|error| Failure::usage(format!("{shown}: {error}")))?);
    }
    variables.extend(settings.iter().cloned());
    Ok(variables)
}

fn upper(args: &RunArgs) -> Upper {
    match &args.upper {
        Some(directory) => Upper::Persistent(directory.clone()),
        None if args.read_only => Upper::ReadOnly,
        None => Upper::Temporary { size: args.upper_size.map(|size| size.0) },
    }
}

fn command(
    args: &RunArgs,
    image: &Image,
    variables: Vec<EnvSetting>,
    plan: Option<&terminal::Plan>,
) -> Result<Command> {
    let mut command = Command::for_image(image);
    if let Some(program) = &args.entrypoint {
        // As docker has it, an empty one takes the image's away.
        command.entrypoint(Some(program).filter(|program| !program.is_empty()));
    }
    command.args(args.command());
    // As `docker run -t`: what kind of terminal it is, for a program that is given one.
    let kind = match plan {
        Some(plan) => Some(plan.kind()),
        None => std::env::var_os("TERM").filter(|_| std::io::stdin().is_terminal()),
    };
    if let Some(kind) = kind.filter(|_| !image.config().env().iter().any(|variable| variable.starts_with("TERM="))) {
        command.env("TERM", kind);
    }
    if let Some(plan) = plan {
        command.terminal(plan.size());
    }
    set_variables(&mut command, variables);
    if let Some(directory) = &args.workdir {
        command.current_dir(directory);
    }
    if let Some(user) = &args.user {
        command.user(user);
    }
    if let Some(name) = &args.hostname {
        command.hostname(name);
    }
    command.namespaces(namespaces(args)).die_with_parent(true);
    let furnish = confine::apply(&args.security, &mut command)?;
    let furnish = mounts::apply(args, &mut command, furnish)?;
    command.furnish(network::furnish(&args.network, furnish));
    limits::apply(&args.limited, &mut command);
    Ok(command)
}

pub(crate) fn set_variables(command: &mut Command, variables: Vec<EnvSetting>) {
    for variable in variables {
        match variable {
            EnvSetting::Set { key, value } => command.env(key, value),
            EnvSetting::Inherit { key } => match std::env::var_os(&key) {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            },
        };
    }
}

fn namespaces(args: &RunArgs) -> Namespaces {
    [(args.pid, Namespaces::PID), (args.ipc, Namespaces::IPC), (args.uts, Namespaces::UTS)]
        .into_iter()
        .filter(|(sharing, _)| *sharing == Sharing::Private)
        .fold(Namespaces::empty(), |all, (_, namespace)| all | namespace)
}

fn warn_of_foreign_platform(session: &Session, image: &Image) {
    let host = Platform::host();
    if image.platform().distance_to(&host).is_none() {
        session.report.warn(&format!("the image is for {}, this machine is {host}", image.platform()));
    }
}

/// Adds what the library cannot know: how the program was named.
fn explain(args: &RunArgs, image: &Image, error: layermount::Error) -> Failure {
    let failure = Failure::from(error);
    let program = args.entrypoint.as_deref().or_else(|| args.command().first()?.to_str());
    match program {
        None if failure.is(ErrorKind::InvalidInput) && image.config().cmd().is_empty() => {
            failure.with_hint(format!("name a program: layermount run {} -- sh", args.image().to_string_lossy()))
        }
        Some(words) if failure.is(ErrorKind::ProgramNotFound) && words.contains(' ') => {
            failure.with_hint("for a shell command write: sh -c 'COMMAND'")
        }
        _ => failure,
    }
}

fn describe(ended: &Ended) -> String {
    match (ended.carried_out, ended.status.signal()) {
        (Some(signal), _) => format!("the program was ended, as {signal} would have"),
        (None, Some(signal)) => format!("signal {signal} ended the program"),
        (None, None) => format!("the program ended with status {}", ended.status.code().unwrap_or(-1)),
    }
}

/// The program's own status, or 128 and the number of the signal that ended it.
pub(crate) fn exit_code(ended: &Ended) -> ExitCode {
    let Ended { status, carried_out } = ended;
    let signal = match carried_out {
        // Unless it managed to end by itself in the meantime.
        Some(signal) if status.signal().is_some() => Some(signal.number()),
        _ => status.signal(),
    };
    let number = signal.map_or_else(|| status.code(), |signal| Some(128 + signal));
    ExitCode::from(number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use layermount::Signal;

    use super::*;

    #[test]
    fn statuses_as_a_shell_has_them() {
        let code = |raw: i32, carried_out| {
            format!("{:?}", exit_code(&Ended { status: ExitStatus::from_raw(raw), carried_out }))
        };
        let number = |number: u8| format!("{:?}", ExitCode::from(number));
        assert_eq!(code(0, None), number(0));
        assert_eq!(code(3 << 8, None), number(3));
        assert_eq!(code(255 << 8, None), number(255));
        assert_eq!(code(15, None), number(143));
        assert_eq!(code(9, Some(Signal::INT)), number(130));
        assert_eq!(code(4 << 8, Some(Signal::INT)), number(4));
    }
}
