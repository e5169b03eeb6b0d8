//! [`Command`]: [`std::process::Command`]'s shape, for a program inside an image.

mod cgroup;
mod channel;
mod confine;
mod error;
mod herald;
mod init;
mod inner;
mod join;
mod launch;
mod magic_links;
mod namespaces;
mod prepare;
mod process;
pub(crate) mod runtime_spec;
mod signal;
mod sockets;
mod spawn;
mod stdio;
mod terminal;
mod timings;
mod user;

pub use namespaces::Namespaces;
pub use process::Child;
pub use signal::{ParseSignalError, Signal};
pub use sockets::{ListenFds, inherited_fd};
pub use stdio::Stdio;
pub use terminal::{Pty, TerminalSize};
pub(crate) use timings::StopWatch;
pub use timings::{StartPhase, Timings};

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use crate::capabilities::Capabilities;
use crate::enter::{BindOptions, Furnish, ImageVolumes, Mount};
use crate::image::{Image, Platform};
use crate::network::Network;
use crate::resources::{Resources, Rlimit};
#[cfg(feature = "seccomp")]
use crate::seccomp::Seccomp;
use crate::userns::IdMaps;
use signal::StopSignal;

/// A program to be run inside an image, and how.
///
/// Nothing is taken over from the calling process but the standard streams: not its environment, not its descriptors.
///
/// A program that is [spawned](crate::RootMount::spawn) is taken for a stranger's, and confined as Docker confines a container's:
/// [`Capabilities::CONTAINER`], the default [`Seccomp`](crate::Seccomp) filter, a session keyring of its own, and, by the default
/// [`Furnish`], the parts of `/proc` and `/sys` that no namespace divides covered or read-only. A process that
/// [becomes](crate::Entered::exec) a program has moved in by itself, and keeps what it has of all that unless it asks for something else.
#[derive(Debug)]
pub struct Command {
    entrypoint: Vec<OsString>,
    arguments: Vec<OsString>,
    /// The arguments are the image's, to be replaced by the first that are given.
    default_arguments: bool,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    user: String,
    added_groups: Vec<String>,
    streams: [Stdio; 3],
    preserved: Vec<OwnedFd>,
    /// In order, from 3 up.
    listening: Vec<(OwnedFd, String)>,
    /// Under numbers of their own.
    numbered: Vec<(OwnedFd, RawFd)>,
    die_with_parent: bool,
    rlimits: Vec<Rlimit>,
    terminal: Option<TerminalSize>,
    init: bool,
    stop_signal: StopSignal,
    /// Of a process that is joined.
    more_groups: Vec<u32>,
    capabilities: Option<Capabilities>,
    no_new_privileges: bool,
    new_session_keyring: Option<bool>,
    #[cfg(feature = "seccomp")]
    seccomp: Option<Seccomp>,
    platform: Option<Platform>,
    timed: bool,
    entering: Entering,
}

/// What has to be known before the image is entered.
#[derive(Debug, Default)]
struct Entering {
    hostname: Option<String>,
    namespaces: Option<Namespaces>,
    furnish: Option<Furnish>,
    mounts: Vec<Mount>,
    /// The image's, by path.
    volumes: Vec<PathBuf>,
    image_volumes: ImageVolumes,
    user_namespace: Option<IdMaps>,
    resources: Resources,
    network: Option<Network>,
}

impl Command {
    /// A program by path, or by name to be looked for in the `PATH` inside.
    ///
    /// The way to it, and to its `#!` interpreter and loader, must not lead through such links of `/proc` as `/proc/self/exe`, which
    /// are files of the host: that would be a way for images to run, and then to overwrite, the binary of whoever enters them.
    /// [`Command::bind`] can give a program of the host a path inside.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            entrypoint: vec![program.as_ref().to_owned()],
            arguments: Vec::new(),
            default_arguments: false,
            environment: Vec::new(),
            directory: PathBuf::from("/"),
            user: String::new(),
            added_groups: Vec::new(),
            streams: Stdio::inherit_all(),
            preserved: Vec::new(),
            listening: Vec::new(),
            numbered: Vec::new(),
            die_with_parent: false,
            rlimits: Vec::new(),
            terminal: None,
            init: false,
            stop_signal: StopSignal::default(),
            more_groups: Vec::new(),
            capabilities: None,
            no_new_privileges: false,
            new_session_keyring: None,
            #[cfg(feature = "seccomp")]
            seccomp: None,
            platform: None,
            timed: false,
            entering: Entering::default(),
        }
    }

    /// What the image itself says is to be run: `Entrypoint` and `Cmd`, with `Env`, `User`, `WorkingDir` and `StopSignal`.
    pub fn for_image(image: &Image) -> Self {
        let config = image.config();
        let words = |words: &[String]| words.iter().map(OsString::from).collect();
        let mut command = Self::new("");
        command.entrypoint = words(config.entrypoint());
        command.arguments = words(config.cmd());
        command.default_arguments = true;
        command.user = config.user().to_owned();
        command.stop_signal = StopSignal::of_image(config.stop_signal());
        command.platform = Some(image.platform().clone());
        command.entering.volumes = config.volumes().map(PathBuf::from).collect();
        if !config.working_dir().is_empty() {
            command.directory = PathBuf::from(config.working_dir());
        }
        // As Docker reads it: what has no "=" is no variable. A config has room for hundreds of thousands.
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (name, value) in config.env().iter().filter_map(|variable| variable.split_once('=')) {
            let place = *places.entry(name).or_insert(command.environment.len());
            match command.environment.get_mut(place) {
                Some((_, old)) => *old = value.into(),
                None => command.environment.push((name.into(), value.into())),
            }
        }
        command
    }

    /// Replaces the image's entrypoint, and its `Cmd` with it.
    pub fn entrypoint(&mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.entrypoint = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        if self.default_arguments {
            self.arguments.clear();
            self.default_arguments = false;
        }
        self
    }

    /// Adds an argument. The first one replaces the image's `Cmd`.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        if self.default_arguments {
            self.arguments.clear();
            self.default_arguments = false;
        }
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments. The first ones replace the image's `Cmd`; its entrypoint stays.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        for argument in arguments {
            self.arg(argument);
        }
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        match self.environment.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.environment.push((name, value)),
        }
        self
    }

    /// Removes an environment variable. `PATH` and `HOME` are given their usual values when they are missing.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.environment.retain(|(known, _)| known != name.as_ref());
        self
    }

    /// Removes all variables, also those of the image.
    pub fn env_clear(&mut self) -> &mut Self {
        self.environment.clear();
        self
    }

    /// The directory inside in which the program starts, made when missing.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = directory.as_ref().to_owned();
        self
    }

    /// `user[:group]` by name, as the image's own files know it, or by number.
    pub fn user(&mut self, user: impl Into<String>) -> &mut Self {
        self.user = user.into();
        self.more_groups.clear();
        self
    }

    /// Puts the program into one more group, by name, as the image's own file knows it, or by number.
    pub fn add_group(&mut self, group: impl Into<String>) -> &mut Self {
        self.added_groups.push(group.into());
        self
    }

    /// The hostname inside. Without one, a uts namespace gets twelve random hexadecimal digits, as Docker gives.
    pub fn hostname(&mut self, hostname: impl Into<String>) -> &mut Self {
        self.entering.hostname = Some(hostname.into());
        self
    }

    /// The program's standard input.
    pub fn stdin(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[0] = stream.into();
        self
    }

    /// The program's standard output.
    pub fn stdout(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[1] = stream.into();
        self
    }

    /// The program's standard error.
    pub fn stderr(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[2] = stream.into();
        self
    }

    /// The namespaces that the program gets to itself, besides the mount namespace.
    pub fn namespaces(&mut self, namespaces: Namespaces) -> &mut Self {
        self.entering.namespaces = Some(namespaces);
        self
    }

    /// Puts the program into a user namespace of its own, inside of all other namespaces: it has no say over what was mounted for
    /// it. `outside` in the maps are IDs as they are where the caller is. A caller that has
    /// [entered](crate::UserNamespace::enter) a namespace, or is root, may map any of them, and everybody else itself alone.
    ///
    /// Files that belong to an ID that is not mapped are nobody's inside.
    ///
    /// Where the namespace is refused, [`RootMount::spawn`](crate::RootMount::spawn) fails. For
    /// [`Entered::exec`](crate::Entered::exec) it is too late.
    pub fn user_namespace(&mut self, maps: IdMaps) -> &mut Self {
        self.entering.user_namespace = Some(maps);
        self
    }

    /// Whose network the program sees. Without it, the caller's.
    ///
    /// Where the network cannot be had, [`RootMount::spawn`](crate::RootMount::spawn) fails. For
    /// [`Entered::exec`](crate::Entered::exec) it is too late.
    pub fn network(&mut self, network: Network) -> &mut Self {
        self.entering.network = Some(network);
        self
    }

    /// What is put around the image's tree, also the bind mounts.
    pub fn furnish(&mut self, furnish: Furnish) -> &mut Self {
        self.entering.furnish = Some(furnish);
        self
    }

    /// Adds a bind mount to those of [`Command::furnish`]: see [`Furnish::bind`].
    pub fn bind(
        &mut self,
        host: impl AsRef<Path>,
        inside: impl AsRef<Path>,
        options: impl Into<BindOptions>,
    ) -> &mut Self {
        self.entering.mounts.push(Mount::bind(host.as_ref(), inside.as_ref(), options.into()));
        self
    }

    /// What becomes of the image's volumes. For a process that [becomes](crate::Entered::exec) the program it is too late: there
    /// [`Furnish::volume`] makes them.
    pub fn image_volumes(&mut self, volumes: ImageVolumes) -> &mut Self {
        self.entering.image_volumes = volumes;
        self
    }

    /// Whether the kernel kills the program when the thread that has spawned it ends. It forgets that for programs which change
    /// their user by themselves, such as set-user-ID ones (`PR_SET_PDEATHSIG`).
    pub fn die_with_parent(&mut self, on: bool) -> &mut Self {
        self.die_with_parent = on;
        self
    }

    /// How much of the machine the program and all that it starts may use. Replaces what was said before.
    ///
    /// [`RootMount::spawn`](crate::RootMount::spawn) makes cgroups for it; for [`Entered::exec`](crate::Entered::exec) it is too
    /// late.
    pub fn resources(&mut self, resources: Resources) -> &mut Self {
        self.entering.resources = resources;
        self
    }

    /// A limit of the single process, which it hands on to what it starts. Of several for the same resource, the last counts; what is
    /// not named is the caller's.
    ///
    /// To go above what the caller has takes `CAP_SYS_RESOURCE`, which no user namespace gives.
    pub fn rlimit(&mut self, limit: Rlimit) -> &mut Self {
        self.rlimits.retain(|known| known.kind() != limit.kind());
        self.rlimits.push(limit);
        self
    }

    /// Gives the program a terminal of its own: a new session, which it controls, on a pseudo-terminal of the image's own `/dev/pts`,
    /// as standard input, output and error, as far as these were not given otherwise. What is typed and shown there goes through
    /// [`Child::terminal`]. The terminal belongs to the program's user, and is `/dev/console` as well.
    ///
    /// `TERM` is not set. Not for [`Entered::exec`](crate::Entered::exec). Sources: pty(7); the OCI runtime specification, "Default
    /// Devices" and `process.terminal`.
    pub fn terminal(&mut self, size: TerminalSize) -> &mut Self {
        self.terminal = Some(size);
        self
    }

    /// Whether the program has an init: process 1 of its pid namespace, which passes signals on to the program, reaps what the program's
    /// descendants leave behind, and ends when the program does, with its status or 128 and the number of the signal that ended it.
    /// Signals then take their default actions on the program, which as process 1 it is spared (pid_namespaces(7)).
    ///
    /// It is a copy of this process that holds no descriptors and little memory, confined as the program is, and not to be looked into.
    /// [`Child::id`] is its number, [`Child::program_id`] the program's. It takes [`Namespaces::PID`]. Not for
    /// [`Entered::exec`](crate::Entered::exec).
    pub fn init(&mut self, on: bool) -> &mut Self {
        self.init = on;
        self
    }

    /// The signal that asks the program to end, in place of the image's `StopSignal` or `SIGTERM`: [`Child::stop_signal`].
    pub fn stop_signal(&mut self, signal: Signal) -> &mut Self {
        self.stop_signal = StopSignal::Known(signal);
        self
    }

    /// The capabilities that the program can ever have, as far as the caller has them: the bounding set is reduced to them. They are
    /// in effect for user 0 alone, as after any change of user; nothing is inheritable or ambient. In a user namespace, they
    /// mean what that owns.
    ///
    /// `Capabilities::ALL` keeps what the caller has.
    pub fn capabilities(&mut self, capabilities: Capabilities) -> &mut Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Whether set-user-ID programs and files' capabilities give nothing any more: `PR_SET_NO_NEW_PRIVS`.
    pub fn no_new_privileges(&mut self, on: bool) -> &mut Self {
        self.no_new_privileges = on;
        self
    }

    /// Which system calls the program may make. A process without `CAP_SYS_ADMIN` in its user namespace can restrict itself only
    /// together with [`Command::no_new_privileges`].
    ///
    /// Rules that depend on capabilities are decided by [`Command::capabilities`]. Of what layermount does, the filter has to allow
    /// `capset` and `execve`.
    #[cfg(feature = "seccomp")]
    pub fn seccomp(&mut self, seccomp: Seccomp) -> &mut Self {
        self.seccomp = Some(seccomp);
        self
    }

    /// Whether the program gets a session keyring of its own, empty, in place of the caller's: session-keyring(7). Where the kernel has
    /// none, or forbids it, nothing is done.
    pub fn new_session_keyring(&mut self, on: bool) -> &mut Self {
        self.new_session_keyring = Some(on);
        self
    }

    /// All that the caller may: every capability that it has, every system call, [`Furnish::privileged`]. As root that is the whole
    /// machine.
    pub fn privileged(&mut self) -> &mut Self {
        self.capabilities = Some(Capabilities::ALL);
        #[cfg(feature = "seccomp")]
        {
            self.seccomp = Some(Seccomp::unconfined());
        }
        let furnish = self.entering.furnish.take().unwrap_or_default();
        self.entering.furnish = Some(furnish.privileged());
        self
    }

    /// Has [`RootMount::spawn`](crate::RootMount::spawn) measure its own phases, for [`Child::timings`].
    pub fn timed(&mut self, on: bool) -> &mut Self {
        self.timed = on;
        self
    }

    /// Hands a descriptor on to the program, under the number that it has here.
    ///
    /// The command owns it from now on: a mere number could be one of the library's own by the time that the program starts.
    pub fn preserve_fd(&mut self, fd: impl Into<OwnedFd>) -> &mut Self {
        self.preserved.push(fd.into());
        self
    }
}
