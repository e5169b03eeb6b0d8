//! What keeps a command from running.

use rustix::io::Errno;

use super::launch::{MAX_GROUPS, Stage};
use super::sockets::MAX_DESCRIPTOR;
use crate::error::{ErrorKind, Fault, SyscallError};
use crate::image::Platform;
use crate::userns;

/// A command that cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("no program to run: the image has neither an entrypoint nor a command")]
    NoProgram,
    #[error("{what} {text:?} has a zero byte")]
    ZeroByte { what: &'static str, text: String },
    #[error("{name:?} is not the name of an environment variable")]
    Variable { name: String },
    #[error("{text:?} is not a user of the form user[:group], names or numbers")]
    User { text: String },
    #[error("{text:?} is not a group: a name or a number")]
    Group { text: String },
    #[error("{text:?} is not a hostname")]
    Hostname { text: String },
    #[error("{what} belongs to entering the image, which has happened already")]
    TooLate { what: &'static str },
    #[error("{text:?}, which the image wants to be stopped by, is not a signal")]
    StopSignal { text: String },
    #[error("a terminal is made in /dev/pts, which is not furnished")]
    NoTerminals,
    #[error("an init needs a pid namespace of its own")]
    SharedPids,
    #[error("{what} cannot be had where a process is that runs already")]
    ThereAlready { what: &'static str },
    #[error("a hostname needs a uts namespace of its own")]
    SharedHostname,
    #[error("{name:?} is not a name for a socket: printable ASCII without a colon, at most 255 bytes")]
    SocketName { name: String },
    #[error("descriptor {number} is given twice")]
    DescriptorTwice { number: i32 },
    #[error("{number} is none of the numbers that a program can be given a descriptor under: 3 to {MAX_DESCRIPTOR}")]
    DescriptorNumber { number: i32 },
    #[error("descriptor {number} is not open")]
    DescriptorNotOpen { number: i32 },
    #[error("{name}={value:?} is not what sd_listen_fds(3) has there")]
    ListenVariable { name: &'static str, value: String },
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        #[source]
        cause: SyscallError,
    },
    #[error("cannot start a child process in new namespaces")]
    Clone {
        user_namespace: bool,
        #[source]
        cause: SyscallError,
    },
    #[error("the child process ended before it became the program ({status})")]
    Died { status: std::process::ExitStatus },
    #[cfg(feature = "seccomp")]
    #[error("cannot make the seccomp filter")]
    Seccomp(#[source] crate::seccomp::SeccompError),
    #[error(transparent)]
    Launch(Box<LaunchError>),
}

/// What the child says about the way into the program.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(*stage, what))]
pub(crate) struct LaunchError {
    pub(super) stage: Stage,
    /// The program, user or directory in question.
    pub(super) what: String,
    pub(super) platform: Option<Platform>,
    #[source]
    pub(super) cause: Option<SyscallError>,
}

fn describe(stage: Stage, what: &str) -> String {
    match stage {
        Stage::UserNamespace => "cannot make a user namespace for the program".to_owned(),
        Stage::Cgroups => "the program cannot join the cgroup that is made for it".to_owned(),
        Stage::CgroupNamespace => "cannot make a cgroup namespace for the program".to_owned(),
        Stage::Rlimits => format!("cannot set the limit {what}"),
        Stage::Streams => "cannot set up the standard streams".to_owned(),
        Stage::UserNotFound => format!("the image has no user {what:?}"),
        Stage::GroupNotFound => format!("the image has no group {what:?}"),
        Stage::TooManyGroups => format!("user {what:?} would be in more than {MAX_GROUPS} groups"),
        Stage::Home => format!("the home directory of user {what:?} is not usable"),
        Stage::WorkingDirectory => format!("cannot use the working directory {what}"),
        Stage::Groups | Stage::Credentials if what.is_empty() => "cannot become the image's root".to_owned(),
        Stage::Groups | Stage::Credentials => format!("cannot become user {what:?}"),
        Stage::Keyring => "cannot give the program a session keyring of its own".to_owned(),
        Stage::NoNewPrivileges => "cannot keep the program from gaining privileges".to_owned(),
        Stage::Capabilities => "cannot reduce the program's capabilities".to_owned(),
        Stage::Seccomp => "cannot restrict the program's system calls".to_owned(),
        Stage::Parent => "the parent process has ended".to_owned(),
        Stage::Join => "cannot join the namespaces of the process".to_owned(),
        Stage::JoinCgroup => "cannot join the cgroup of the process".to_owned(),
        Stage::Terminal => "cannot give the program a terminal".to_owned(),
        Stage::Init => "cannot start an init for the program".to_owned(),
        Stage::Preserve => "a descriptor to be preserved is not open".to_owned(),
        Stage::MagicLink => {
            format!("cannot execute {what:?}: the way to it or its interpreter is a circle, or a link of /proc")
        }
        Stage::Place => "cannot give the program its descriptors".to_owned(),
        Stage::ProgramNotFound => format!("program {what:?} not found in the image"),
        Stage::InterpreterNotFound => format!("the program {what:?} exists, its interpreter or loader does not"),
        Stage::NotExecutable => format!("cannot execute {what:?}"),
    }
}

impl Fault for CommandError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProgram
            | Self::ZeroByte { .. }
            | Self::Variable { .. }
            | Self::User { .. }
            | Self::Group { .. }
            | Self::Hostname { .. }
            | Self::TooLate { .. }
            | Self::NoTerminals
            | Self::SharedPids
            | Self::ThereAlready { .. }
            | Self::SharedHostname
            | Self::SocketName { .. }
            | Self::DescriptorTwice { .. }
            | Self::DescriptorNumber { .. }
            | Self::DescriptorNotOpen { .. }
            | Self::ListenVariable { .. } => ErrorKind::InvalidInput,
            Self::StopSignal { .. } => ErrorKind::InvalidImage,
            Self::System { cause, .. } => cause.kind(),
            Self::Clone { user_namespace: true, .. } => ErrorKind::PermissionDenied,
            Self::Clone { cause, .. } => cause.kind(),
            Self::Died { .. } => ErrorKind::Os,
            #[cfg(feature = "seccomp")]
            Self::Seccomp(cause) => cause.kind(),
            Self::Launch(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProgram => "name a program".to_owned(),
            Self::Clone { user_namespace: true, cause } => userns::hint(userns::Stage::Make, cause.errno()),
            Self::Clone { cause, .. } if cause.errno() == Errno::ACCESS => {
                "the cgroup above both this process and the new one has to be the user's, too: systemd-run --user --scope -p Delegate=yes layermount ...".to_owned()
            }
            Self::Clone { cause, .. } if cause.errno() == Errno::AGAIN => {
                "too many processes: look at `ulimit -u` and the pids limit of the cgroup".to_owned()
            }
            #[cfg(feature = "seccomp")]
            Self::Seccomp(cause) => return cause.hint(),
            Self::Launch(error) => return error.hint(),
            Self::StopSignal { .. } => "say another one, such as SIGTERM".to_owned(),
            Self::TooLate { .. } => "give it to pivot_with, or spawn the command".to_owned(),
            _ => return None,
        })
    }
}

impl Fault for LaunchError {
    fn kind(&self) -> ErrorKind {
        match self.stage {
            Stage::UserNotFound | Stage::GroupNotFound => ErrorKind::UserNotFound,
            Stage::TooManyGroups | Stage::Home => ErrorKind::InvalidImage,
            Stage::ProgramNotFound => ErrorKind::ProgramNotFound,
            Stage::MagicLink | Stage::InterpreterNotFound | Stage::NotExecutable => ErrorKind::ProgramNotExecutable,
            Stage::Preserve => ErrorKind::InvalidInput,
            _ => self.cause.as_ref().map_or(ErrorKind::Os, Fault::kind),
        }
    }

    fn hint(&self) -> Option<String> {
        let errno = self.cause.as_ref().map(SyscallError::errno);
        Some(match (self.stage, errno) {
            (Stage::UserNamespace, Some(errno)) => userns::hint(userns::Stage::Make, errno),
            (Stage::UserNotFound | Stage::GroupNotFound, _) => {
                "names are looked up in the image's own /etc/passwd and /etc/group; a number needs no entry there"
                    .to_owned()
            }
            (Stage::Groups | Stage::Credentials, Some(Errno::INVAL | Errno::PERM)) => {
                "the user namespace has no such user: without ranges in /etc/subuid and /etc/subgid, root alone is mapped \
                 (user 0), and with them as many as they have"
                    .to_owned()
            }
            (Stage::Keyring, Some(Errno::DQUOT)) => {
                "the user has too many keys: look at /proc/key-users and the sysctls kernel.keys.*".to_owned()
            }
            (Stage::Rlimits, Some(Errno::PERM)) => {
                "to go above one's own hard limit (ulimit -H) takes CAP_SYS_RESOURCE, and nofile ends at the sysctl fs.nr_open".to_owned()
            }
            (Stage::Cgroups, Some(Errno::ACCESS | Errno::PERM)) => {
                "the cgroup above both this process and the new one has to be the user's, too: systemd-run --user --scope \
                 -p Delegate=yes layermount ..."
                    .to_owned()
            }
            (Stage::Seccomp, Some(Errno::ACCESS)) => {
                "without CAP_SYS_ADMIN, only together with no_new_privs".to_owned()
            }
            (Stage::Seccomp, Some(Errno::INVAL | Errno::NOSYS)) => {
                "this kernel is built without seccomp filters, or a filter around hides them; do without (unconfined)"
                    .to_owned()
            }
            (Stage::MagicLink, _) => {
                "links such as /proc/self/exe lead to files of the host and are not followed; a program of the host can be \
                 bound to a path inside"
                    .to_owned()
            }
            (Stage::InterpreterNotFound, _) => {
                "look at its #! line, or at the loader that it was linked for (an image of another C library?)"
                    .to_owned()
            }
            (Stage::NotExecutable, Some(Errno::NOEXEC)) => match &self.platform {
                Some(platform) if platform.distance_to(&Platform::host()).is_none() => {
                    format!("the image is for {platform}, this machine is {}", Platform::host())
                }
                _ => "it is neither a script with a #! line nor a binary for this machine".to_owned(),
            },
            (Stage::NotExecutable, Some(Errno::ACCESS)) => {
                "it is a directory, or not marked as executable for this user, or lies on a mount with noexec"
                    .to_owned()
            }
            (Stage::WorkingDirectory, Some(Errno::LOOP)) => {
                "links of /proc lead outside of the image and are not followed".to_owned()
            }
            _ => return None,
        })
    }
}
