//! From a [`Command`] to a [`Launch`]: everything that can be wrong with it is found here, before there is a child.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

use rustix::fs::{Gid, Mode, OFlags};

use super::confine::Launching;
use super::error::{CommandError, LaunchError};
use super::init;
use super::launch::{Launch, MAX_DATABASE, MAX_GROUPS, Stage};
use super::stdio::{Stdio, Stream};
use super::terminal::Slave;
use super::user::{Id, UserSpec};
use super::{Command, Entering};
use crate::enter::ImageVolumes;
use crate::error::{Error, SyscallContext, SyscallError};
use crate::ipc;
use crate::script::Failure;
use crate::sys::exec::Strings;

/// What Docker gives to images that set none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `LISTEN_PID=` and a number.
const LISTEN_PID_ROOM: usize = 32;

/// Linux's limit for a path, and `HOME=`.
const HOME_ROOM: usize = 4096 + 8;

/// Our ends of the pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Command {
    /// [`Entered::exec`](crate::Entered::exec).
    pub(crate) fn exec_here(&mut self, single_user: bool) -> Error {
        match self.exec_or(single_user) {
            Ok(never) => match never {},
            Err(error) => error.into(),
        }
    }

    fn exec_or(&mut self, single_user: bool) -> Result<std::convert::Infallible, CommandError> {
        let of_children = [
            (self.terminal.is_some(), "a terminal"),
            (self.init, "an init"),
            (self.streams.iter().any(|stream| matches!(stream.0, Stream::Piped)), "a pipe to a parent"),
        ];
        let of_children = of_children.into_iter().find_map(|(given, what)| given.then_some(what));
        if let Some(what) = self.given_for_entering().or(of_children) {
            return Err(CommandError::TooLate { what });
        }
        let (mut launch, _) = self.launch(Launching::Exec, single_user)?;
        let failure = launch.run(None, None);
        Err(self.explain(&failure))
    }

    /// What cannot be had by a program in a tree that has been entered, if anything of the kind was asked for.
    pub(super) fn given_for_entering(&self) -> Option<&'static str> {
        let Entering {
            hostname,
            namespaces,
            furnish,
            mounts,
            // The image's own, which whoever has entered it has seen to.
            volumes: _,
            image_volumes,
            user_namespace,
            resources,
            network,
        } = &self.entering;
        let given = [
            (hostname.is_some(), "a hostname"),
            (namespaces.is_some(), "a set of namespaces"),
            (furnish.is_some(), "furnishing"),
            (!mounts.is_empty(), "a bind mount"),
            (*image_volumes != ImageVolumes::default(), "a way with the image's volumes"),
            (user_namespace.is_some(), "a user namespace"),
            (!resources.is_empty(), "a limit of resources"),
            (network.is_some(), "a network"),
        ];
        given.into_iter().find_map(|(given, what)| given.then_some(what))
    }

    /// Checks everything, looks nothing up inside the image, and opens the streams.
    pub(super) fn launch(&mut self, launching: Launching, single_user: bool) -> Result<(Launch, Pipes), CommandError> {
        let words: Vec<_> = self.entrypoint.iter().chain(&self.arguments).collect();
        let program = words.first().filter(|program| !program.is_empty()).ok_or(CommandError::NoProgram)?;
        let path = self.variable("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
        let candidates = candidates(program, path)?;
        let arguments = words.iter().map(|word| c_string("argument", word)).collect::<Result<_, _>>()?;
        let user = UserSpec::parse(&self.user).ok_or_else(|| CommandError::User { text: self.user.clone() })?;
        let added_groups = self.parsed_groups()?;
        let directory = c_string("working directory", self.directory.as_os_str())?;
        let (placed, environment) = self.sockets()?;
        let environment = Strings::new(environment, &[HOME_ROOM, LISTEN_PID_ROOM]);
        let confinement = self.confinement(launching)?;
        let wants_home = self.variable("HOME").is_none();
        let (streams, pipes) = self.open_streams()?;
        let preserved: Vec<_> = self.preserved.iter().map(AsRawFd::as_raw_fd).collect();
        let launch = Launch {
            candidates,
            arguments: Strings::new(arguments, &[]),
            environment,
            wants_home,
            user,
            added_groups,
            directory,
            streams,
            kept: preserved.iter().copied().chain(placed.numbers()).collect(),
            preserved,
            placed,
            listens: !self.listening.is_empty(),
            die_with_parent: self.die_with_parent,
            rlimits: self.rlimits.clone(),
            terminal: self.terminal.map(Slave::new),
            init: self.init.then(init::Plan::new),
            confinement,
            single_user,
            database: vec![0; MAX_DATABASE],
            groups: Vec::with_capacity(MAX_GROUPS),
            more_groups: self.more_groups.iter().copied().map(Gid::from_raw).collect(),
        };
        Ok((launch, pipes))
    }

    /// The child's standard streams, and our ends of those that are pipes. A command that is spawned again has the caller's.
    fn open_streams(&mut self) -> Result<([Option<OwnedFd>; 3], Pipes), CommandError> {
        let [stdin, stdout, stderr] = std::mem::replace(&mut self.streams, Stdio::inherit_all());
        let (stdin, to_stdin) = open_stream(stdin, false)?;
        let (stdout, from_stdout) = open_stream(stdout, true)?;
        let (stderr, from_stderr) = open_stream(stderr, true)?;
        let pipes = Pipes {
            stdin: to_stdin.map(ChildStdin::from),
            stdout: from_stdout.map(ChildStdout::from),
            stderr: from_stderr.map(ChildStderr::from),
        };
        Ok(([stdin, stdout, stderr], pipes))
    }

    pub(super) fn parsed_groups(&self) -> Result<Vec<Id>, CommandError> {
        let parsed = |group: &String| {
            let parsed = Id::parse(group).filter(|_| !group.is_empty());
            parsed.ok_or_else(|| CommandError::Group { text: group.clone() })
        };
        self.added_groups.iter().map(parsed).collect()
    }

    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    pub(super) fn environment(&self) -> Result<Vec<CString>, CommandError> {
        let join = |name: &OsStr, value: &OsStr| {
            let mut text = name.to_owned();
            text.push("=");
            text.push(value);
            c_string("environment variable", &text)
        };
        let mut environment = Vec::with_capacity(self.environment.len() + 1);
        if self.variable("PATH").is_none() {
            environment.push(join(OsStr::new("PATH"), OsStr::new(DEFAULT_PATH))?);
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(CommandError::Variable { name: name.to_string_lossy().into_owned() });
            }
            environment.push(join(name, value)?);
        }
        Ok(environment)
    }

    /// The likeliest, as far as it can be told from here.
    fn rlimit_that_failed(&self) -> String {
        let limits = &self.rlimits;
        match limits.iter().find(|limit| limit.is_above_the_callers()) {
            Some(limit) => limit.to_string(),
            None => limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// Puts what the child says into words.
    pub(super) fn explain(&self, failure: &Failure) -> CommandError {
        let stage = Stage::of(failure).unwrap_or(Stage::Streams);
        let program = self.entrypoint.first().or(self.arguments.first()).cloned().unwrap_or_default();
        let (what, call) = match stage {
            Stage::UserNamespace => ("CLONE_NEWUSER".to_owned(), "unshare"),
            Stage::Streams => (String::new(), "dup2"),
            Stage::UserNotFound | Stage::TooManyGroups | Stage::Home => {
                (self.user.split(':').next().unwrap_or_default().to_owned(), "setgroups")
            }
            // It is said which, of several.
            Stage::GroupNotFound => (failure.text().unwrap_or_default(), "setgroups"),
            Stage::Groups => (self.user.clone(), "setgroups"),
            Stage::Credentials => (self.user.clone(), "setresuid"),
            Stage::WorkingDirectory => (self.directory.display().to_string(), "openat2"),
            Stage::Keyring => ("KEYCTL_JOIN_SESSION_KEYRING".to_owned(), "keyctl"),
            Stage::Cgroups => ("\"0\"".to_owned(), "write"),
            Stage::CgroupNamespace => ("CLONE_NEWCGROUP".to_owned(), "unshare"),
            Stage::Rlimits => (self.rlimit_that_failed(), "setrlimit"),
            Stage::NoNewPrivileges => ("PR_SET_NO_NEW_PRIVS".to_owned(), "prctl"),
            Stage::Capabilities => (String::new(), "capset"),
            Stage::Seccomp => ("SECCOMP_SET_MODE_FILTER".to_owned(), "seccomp"),
            Stage::Parent => (String::new(), "prctl"),
            Stage::Join => (String::new(), "setns"),
            Stage::JoinCgroup => ("cgroup.procs".to_owned(), "write"),
            Stage::Terminal => ("/dev/pts/ptmx".to_owned(), "ioctl"),
            Stage::Init => (String::new(), "fork"),
            Stage::Preserve => (String::new(), "fcntl"),
            Stage::MagicLink => (program.to_string_lossy().into_owned(), "openat2"),
            Stage::Place => (String::new(), "dup2"),
            Stage::ProgramNotFound | Stage::InterpreterNotFound | Stage::NotExecutable => {
                (program.to_string_lossy().into_owned(), "execve")
            }
        };
        let found_out_by_reading = matches!(
            stage,
            Stage::UserNotFound | Stage::GroupNotFound | Stage::TooManyGroups | Stage::Home | Stage::ProgramNotFound
        );
        let cause = (!found_out_by_reading).then(|| SyscallError::new(call, format!("{what:?}"), failure.errno));
        CommandError::Launch(Box::new(LaunchError { stage, what, platform: self.platform.clone(), cause }))
    }
}

/// A name without a slash is looked for in the directories of `path`; only absolute ones, because the working directory is
/// the image's to choose.
pub(super) fn candidates(program: &OsStr, path: &OsStr) -> Result<Vec<CString>, CommandError> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("program", program)?]);
    }
    let directories = path.as_bytes().split(|byte| *byte == b':').filter(|directory| directory.starts_with(b"/"));
    directories
        .map(|directory| {
            let joined = [directory, program.as_bytes()].join(&b'/');
            c_string("program", &OsString::from_vec(joined))
        })
        .collect()
}

pub(super) fn c_string(what: &'static str, text: &OsStr) -> Result<CString, CommandError> {
    CString::new(text.as_bytes())
        .map_err(|_| CommandError::ZeroByte { what, text: text.to_string_lossy().into_owned() })
}

/// The child's end and ours. The child's end is above the three numbers that it is going to be copied on to.
fn open_stream(stream: Stdio, output: bool) -> Result<(Option<OwnedFd>, Option<OwnedFd>), CommandError> {
    let system = |cause| CommandError::System { doing: "prepare the standard streams", cause };
    let (theirs, ours) = match stream.0 {
        Stream::Inherit => return Ok((None, None)),
        Stream::File(file) => (file, None),
        Stream::Null => {
            let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            (null.syscall("open", || "/dev/null".to_owned()).map_err(system)?, None)
        }
        Stream::Piped => {
            let (reader, writer) = ipc::pipe().map_err(system)?;
            if output { (writer, Some(reader)) } else { (reader, Some(writer)) }
        }
    };
    let theirs = ipc::above_streams(theirs).map_err(system)?;
    Ok((Some(theirs), ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::image::{Config, Content, ImageParts, Platform};

    fn image(config: &str) -> Image {
        Image::new(ImageParts {
            id: None,
            manifest_digest: None,
            names: Vec::new(),
            platform: Platform::host(),
            config: Config::parse(config).unwrap(),
            descriptors: None,
            content: Content::Stored,
        })
        .unwrap()
    }

    fn words(command: &Command) -> Vec<&str> {
        command.entrypoint.iter().chain(&command.arguments).map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn arguments_replace_cmd_and_an_entrypoint_replaces_both() {
        let image = image(r#"{"config":{"Entrypoint":["/e","-x"],"Cmd":["c"],"Env":["A=1","B","A=2"]}}"#);
        assert_eq!(words(&Command::for_image(&image)), ["/e", "-x", "c"]);
        assert_eq!(words(Command::for_image(&image).args(["a", "b"]).arg("d")), ["/e", "-x", "a", "b", "d"]);
        assert_eq!(words(Command::for_image(&image).entrypoint(["/f"])), ["/f"]);
        assert_eq!(words(Command::for_image(&image).arg("a").entrypoint(["/f"])), ["/f", "a"]);
        assert_eq!(words(Command::for_image(&image).entrypoint(["/f"]).arg("a")), ["/f", "a"]);
        let mut command = Command::for_image(&image);
        let environment = command.env("C", "3").env_remove("C").environment().unwrap();
        assert_eq!(environment, [CString::new(format!("PATH={DEFAULT_PATH}")).unwrap(), c"A=2".to_owned()]);
    }

    #[test]
    fn as_many_variables_as_a_config_has_room_for() {
        const COUNT: usize = 300_000;
        let variables: Vec<String> = (0..COUNT).map(|number| format!("{number:x}=")).collect();
        let config = serde_json::json!({"config": {"Env": variables}}).to_string();
        let since = std::time::Instant::now();
        assert_eq!(Command::for_image(&image(&config)).environment.len(), COUNT);
        // Minutes, if each was looked for among those before it.
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "{:?}", since.elapsed());
    }

    #[test]
    fn programs_are_looked_for_in_absolute_directories() {
        let found = |program: &str, path: &str| candidates(OsStr::new(program), OsStr::new(path)).unwrap();
        assert_eq!(found("sh", "/bin::.:rel:/usr/bin"), [c"/bin/sh".to_owned(), c"/usr/bin/sh".to_owned()]);
        assert_eq!(found("./sh", "/bin"), [c"./sh".to_owned()]);
        assert!(found("sh", "").is_empty());
    }

    #[test]
    fn what_belongs_to_entering_is_told_of_a_command() {
        let given = |command: &mut Command| command.given_for_entering();
        assert_eq!(given(Command::new("x").init(true).user("a")), None);
        assert_eq!(given(Command::new("x").hostname("a")), Some("a hostname"));
        assert_eq!(given(Command::new("x").privileged()), Some("furnishing"));
        assert!(given(Command::new("x").image_volumes(ImageVolumes::Tmpfs)).is_some());
        assert_eq!(given(Command::new("x").image_volumes(ImageVolumes::Auto)), None);
    }

    #[test]
    fn nonsense_is_refused_before_anything_happens() {
        let refused = |change: &dyn Fn(&mut Command)| {
            let mut command = Command::new("x");
            change(&mut command);
            Error::from(command.launch(Launching::Spawn { user_namespace: false }, false).unwrap_err()).kind()
        };
        use crate::ErrorKind::InvalidInput;
        assert_eq!(
            refused(&|command| {
                command.arg("a\0b");
            }),
            InvalidInput
        );
        assert_eq!(
            refused(&|command| {
                command.env("", "x");
            }),
            InvalidInput
        );
        assert_eq!(
            refused(&|command| {
                command.env("A=B", "x");
            }),
            InvalidInput
        );
        assert_eq!(
            refused(&|command| {
                command.user("a:b:c");
            }),
            InvalidInput
        );
        for bad in ["", "a:b", "4294967295", "a\nb"] {
            assert_eq!(
                refused(&|command| {
                    command.add_group(bad);
                }),
                InvalidInput
            );
        }
        assert_eq!(
            refused(&|command| {
                command.entrypoint([""; 0]);
            }),
            InvalidInput
        );
        assert_eq!(
            refused(&|command| {
                command.current_dir("a\0");
            }),
            InvalidInput
        );
    }
}
