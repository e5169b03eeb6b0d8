//! [`Command`]: [`std::process::Command`]'s shape, for a program inside an image.

mod confine;
mod error;
mod inner;
mod launch;
mod namespaces;
mod prepare;
mod process;
mod runtime_spec;
mod spawn;
mod stdio;
mod user;

pub use namespaces::Namespaces;
pub use process::{Child, ParseSignalError, Signal};
pub use stdio::Stdio;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::capabilities::Capabilities;
use crate::enter::{Access, Furnish};
use crate::image::{Image, Platform};
#[cfg(feature = "seccomp")]
use crate::seccomp::Seccomp;
use crate::userns::IdMaps;

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
    streams: [Stdio; 3],
    preserved: Vec<OwnedFd>,
    die_with_parent: bool,
    capabilities: Option<Capabilities>,
    no_new_privileges: bool,
    new_session_keyring: Option<bool>,
    #[cfg(feature = "seccomp")]
    seccomp: Option<Seccomp>,
    platform: Option<Platform>,
    entering: Entering,
}

/// What has to be known before the image is entered.
#[derive(Debug, Default)]
struct Entering {
    hostname: Option<String>,
    namespaces: Option<Namespaces>,
    furnish: Option<Furnish>,
    binds: Vec<crate::enter::Bind>,
    user_namespace: Option<IdMaps>,
}

impl Command {
    /// A program by path, or by name to be looked for in the `PATH` inside.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            entrypoint: vec![program.as_ref().to_owned()],
            arguments: Vec::new(),
            default_arguments: false,
            environment: Vec::new(),
            directory: PathBuf::from("/"),
            user: String::new(),
            streams: [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()],
            preserved: Vec::new(),
            die_with_parent: false,
            capabilities: None,
            no_new_privileges: false,
            new_session_keyring: None,
            #[cfg(feature = "seccomp")]
            seccomp: None,
            platform: None,
            entering: Entering::default(),
        }
    }

    /// What the image itself says is to be run: `Entrypoint` and `Cmd`, with `Env`, `User` and `WorkingDir`.
    pub fn for_image(image: &Image) -> Self {
        let config = image.config();
        let words = |words: &[String]| words.iter().map(OsString::from).collect();
        let mut command = Self::new("");
        command.entrypoint = words(config.entrypoint());
        command.arguments = words(config.cmd());
        command.default_arguments = true;
        command.user = config.user().to_owned();
        command.platform = Some(image.platform().clone());
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

    /// What is put around the image's tree, also the bind mounts.
    pub fn furnish(&mut self, furnish: Furnish) -> &mut Self {
        self.entering.furnish = Some(furnish);
        self
    }

    /// Adds a bind mount to those of [`Command::furnish`].
    pub fn bind(&mut self, host: impl AsRef<Path>, inside: impl AsRef<Path>, access: Access) -> &mut Self {
        let (host, inside) = (host.as_ref().to_owned(), inside.as_ref().to_owned());
        self.entering.binds.push(crate::enter::Bind { host, inside, access });
        self
    }

    /// Whether the kernel kills the program when the thread that has spawned it ends. It forgets that for programs which change
    /// their user by themselves, such as set-user-ID ones (`PR_SET_PDEATHSIG`).
    pub fn die_with_parent(&mut self, on: bool) -> &mut Self {
        self.die_with_parent = on;
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

    /// Which system calls the program may make. A process without `CAP_SYS_ADMIN` in its user namespace can restrict itself only together with
    /// [`Command::no_new_privileges`].
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

    /// Hands a descriptor on to the program, under the number that it has here.
    ///
    /// The command owns it from now on: a mere number could be one of the library's own by the time that the program starts.
    pub fn preserve_fd(&mut self, fd: impl Into<OwnedFd>) -> &mut Self {
        self.preserved.push(fd.into());
        self
    }
}
