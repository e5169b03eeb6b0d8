//! `layermount run --runtime`: a bundle that only this run sees, and a runtime that runs it.
//!
//! ```text
//! layermount, in a mount namespace of its own
//!   tmpfs        bundle/ with the image's tree, state/ for the runtime (--root), pid
//!   runtime      crun run ..., in a process group of its own, so that a typed Ctrl-C comes from layermount alone
//!     program    process 1 of its container; signals go to it directly
//!   watcher      a shell that waits for the end of a pipe, and then has the runtime delete the container
//! ```
//!
//! When layermount is killed, the pipe ends: the watcher kills what runs and has the runtime remove its control groups. The
//! tmpfs, and with it the runtime's state, goes with the last process in the namespace. Who kills the watcher as well has a
//! container left that runs to its own end, and on control groups of version 1 empty directories called like it.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use layermount::{Bundle, ErrorKind, UserNamespace};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::args::{Global, NetworkMode, RunArgs};
use crate::failure::{Failure, Result};
use crate::mount::leave_mount_namespace;
use crate::random;
use crate::report::Phase;
use crate::session::{Session, store_path};
use crate::signals::{Ended, Program, Signals, Supervision};
use crate::users::Entrance;

use super::sockets::Sockets;

/// Lines are the runtime's pid, then `end` when all is well. The runtime may not have made the container yet when it is killed, so
/// that it is deleted twice.
const WATCHER: &str = r#"trap '' HUP INT TERM
pid=
while read -r line; do
    [ "$line" = end ] && exit
    pid=$line
done
[ "$pid" ] && kill -9 "$pid"
"$@"
sleep 1
exec "$@""#;

/// How long a runtime may take to make a container, when somebody wants to signal what is in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a runtime would do in its own way, or not at all, is refused before anything is done.
pub(super) fn check(args: &RunArgs, sockets: &Sockets) -> Result<()> {
    let is_pasta = matches!(args.network.network, Some(NetworkMode::Pasta(_))) || !args.network.publish.is_empty();
    // In a user namespace crun goes on without them when it may not make control groups, and says nothing.
    let drops_limits = UserNamespace::is_needed() && !args.limited.resources().is_empty();
    let refused = [
        (drops_limits, "limit of memory, processors or processes for an ordinary user: the runtime might drop it"),
        (args.streams.tty, "-t: the program has the runtime's terminal; for one of its own use `layermount bundle -t`"),
        (args.life.init, "--init: a runtime starts the program alone"),
        (args.life.pidfile.is_some(), "--pidfile: the program is the runtime's"),
        (args.life.cidfile.is_some(), "--cidfile: the container is the runtime's"),
        (is_pasta, "-p and --network pasta: a runtime does not start pasta"),
        (!sockets.is_empty(), "--listen, --preserve-fds and LISTEN_FDS: a runtime hands on no descriptors"),
    ];
    match refused.into_iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(Failure::usage(format!("with --runtime there is no {what}"))
            .with_hint("leave out --runtime: layermount runs the program by itself")),
        None => Ok(()),
    }
}

/// A session in a mount namespace that ends with this process and those that it starts.
pub(super) fn open_session(runtime: &Path, entrance: Entrance, global: &Global) -> Result<Session> {
    // Before anything is unpacked for nothing.
    find(runtime)?;
    // Inside, this is root, who has another one.
    let store = store_path(global)?;
    let inside = entrance.enter()?;
    // Before the store is opened: overlayfs takes layers of its own namespace only.
    leave_mount_namespace()?;
    Ok(Session::open_at(store, global)?.inside(inside))
}

/// Runs a bundle to the end of its program.
pub(super) fn run(runtime: &Path, bundle: Bundle, session: &Session, how: Supervision) -> Result<Ended> {
    let since = Instant::now();
    let runtime = find(runtime)?;
    let place = session.store.mount_point()?;
    let options = Some("mode=0700,size=64m");
    mount(Some("layermount"), &place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options)
        .map_err(|errno| Failure::io("cannot mount a tmpfs for the bundle", errno))?;
    let (directory, state, pid) = (place.join("bundle"), place.join("state"), place.join("pid"));
    let stop_signal = bundle.stop_signal();
    bundle.write(&directory)?;

    let id = format!("layermount-{}", container_name()?);
    let shown = runtime.display().to_string();
    let failed = |error| Failure::io(format!("cannot run {shown}"), error);
    let call = |words: &[&str]| {
        let mut command = Command::new(&runtime);
        command.arg("--root").arg(&state).args(words).process_group(0);
        command
    };
    let signals = Signals::take()?;
    let mut watcher = Watcher::start(&call(&["delete", "--force", &id]))?;
    let mut run = call(&["run"]);
    run.arg("--bundle").arg(&directory).arg("--pid-file").arg(&pid).arg(&id);
    let kill = call(&["kill", &id]);
    let kill = std::iter::once(kill.get_program()).chain(kill.get_args()).map(OsStr::to_owned).collect();
    let mut container = Container { runtime: run.spawn().map_err(failed)?, pid, stop_signal, kill, killed: false };
    watcher.tell(&container.runtime.id().to_string())?;
    session.report.phase(Phase::Start, since, || format!("{shown} runs the program in container {id}"));

    let since = Instant::now();
    let ended = signals.supervise(&mut container, how)?;
    session.report.phase(Phase::End, since, || format!("{shown} has ended"));
    if state.join(&id).exists() {
        // It was killed itself.
        call(&["delete", "--force", &id]).stderr(Stdio::null()).status().map_err(failed)?;
    }
    watcher.end()?;
    Ok(ended)
}

/// The program's file, which is searched for as a shell does.
fn find(runtime: &Path) -> Result<PathBuf> {
    let found = if runtime.components().count() > 1 || runtime.is_absolute() {
        std::path::absolute(runtime).ok().filter(|path| path.is_file())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|directory| directory.join(runtime)).find(|path| path.is_file())
    };
    found.ok_or_else(|| {
        Failure::new(ErrorKind::Unsupported, format!("there is no runtime {}", runtime.display()))
            .with_hint("install it (crun and runc are packages of that name), name its path, or leave out --runtime")
    })
}

fn container_name() -> Result<String> {
    random::hex::<6>().map_err(|error| Failure::io("cannot make up a name for the container", error))
}

/// Outlives layermount for as long as it takes to clean up.
struct Watcher {
    shell: Child,
    pipe: ChildStdin,
}

impl Watcher {
    fn start(cleaning: &Command) -> Result<Self> {
        let failed = |error| Failure::io("cannot start a shell that cleans up if layermount is killed", error);
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCHER, "layermount-watcher"]).arg(cleaning.get_program()).args(cleaning.get_args());
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = shell.spawn().map_err(failed)?;
        let pipe = shell.stdin.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { shell, pipe })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.pipe, "{line}").map_err(|error| Failure::io("the shell that cleans up has ended", error))
    }

    fn end(mut self) -> Result<()> {
        self.tell("end")?;
        drop(self.pipe);
        self.shell.wait().map(drop).map_err(|error| Failure::io("cannot wait for the shell that cleans up", error))
    }
}

/// A program that somebody else has started.
struct Container {
    runtime: Child,
    /// A file with its number.
    pid: PathBuf,
    stop_signal: layermount::Signal,
    /// Words by which the runtime sends it a signal, which comes behind them.
    kill: Vec<OsString>,
    killed: bool,
}

impl Container {
    /// The program, or the runtime if that makes none. A runtime may write the number down after the program has begun to run, and
    /// would pass signals on to it that the kernel drops.
    fn process(&self) -> Pid {
        let runtime = Pid::from_raw(self.runtime.id().cast_signed());
        let looks = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let since = Instant::now();
        loop {
            let number = std::fs::read_to_string(&self.pid).ok().and_then(|text| text.trim().parse().ok());
            let runs = matches!(waitid(Id::Pid(runtime), looks), Ok(WaitStatus::StillAlive));
            match number {
                Some(number) => return Pid::from_raw(number),
                None if !runs || since.elapsed() > PATIENCE => return runtime,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn send(&self, signal: Signal) -> layermount::Result<()> {
        match signal::kill(self.process(), signal) {
            // It has ended, and the runtime will say so.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(layermount::Error::new(ErrorKind::Os, errno)),
        }
    }
}

impl Program for Container {
    fn program_id(&self) -> u32 {
        self.process().as_raw().cast_unsigned()
    }

    fn stop_signal(&self) -> layermount::Signal {
        self.stop_signal
    }

    fn handles(&self, signal: layermount::Signal) -> layermount::Result<bool> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process()))
            .map_err(|error| layermount::Error::new(ErrorKind::Os, error))?;
        let has = |field: &str| {
            let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(field)?.trim(), 16).ok());
            mask.is_some_and(|mask| mask >> (signal.number() - 1) & 1 == 1)
        };
        // As in sigwait(3): the number of the system call that it is in comes first.
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.process())).unwrap_or_default();
        let waits = call.split(' ').next().and_then(|number| number.parse().ok()) == Some(libc::SYS_rt_sigtimedwait);
        Ok(waits || ["SigCgt:", "SigBlk:", "SigIgn:"].iter().any(|field| has(field)))
    }

    fn signal(&self, signal: layermount::Signal) -> layermount::Result<()> {
        match Signal::try_from(signal.number()) {
            Ok(signal) => self.send(signal),
            // Real-time signals, which nix does not know.
            Err(_) => {
                self.process();
                let [program, arguments @ ..] = self.kill.as_slice() else { return Ok(()) };
                let mut kill = Command::new(program);
                kill.args(arguments).arg(signal.number().to_string()).process_group(0);
                // That the program has ended already is no failure.
                let status = kill.stdin(Stdio::null()).stderr(Stdio::null()).status();
                status.map(drop).map_err(|error| layermount::Error::new(ErrorKind::Os, error))
            }
        }
    }

    fn kill(&mut self) -> layermount::Result<()> {
        self.killed = true;
        self.send(Signal::SIGKILL)
    }

    fn try_wait(&mut self) -> layermount::Result<Option<ExitStatus>> {
        let status = self.runtime.try_wait().map_err(|error| layermount::Error::new(ErrorKind::Os, error))?;
        // A runtime says in a number which signal ended the program; here that matters only for one that was sent for another.
        let killed = |status: ExitStatus| self.killed && status.code() == Some(128 + Signal::SIGKILL as i32);
        Ok(status.map(|status| if killed(status) { ExitStatus::from_raw(Signal::SIGKILL as i32) } else { status }))
    }
}
