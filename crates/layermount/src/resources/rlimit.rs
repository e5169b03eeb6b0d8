//! [`Rlimit`]: limits of single processes, getrlimit(2).

use std::fmt;
use std::str::FromStr;

use rustix::io::Result as SystemResult;
use rustix::process::{self, Resource};

use crate::error::{ErrorKind, Fault};

/// What a process may use, and may raise its use to: getrlimit(2). The program begins with it, and what it starts inherits it.
///
/// Prints and parses as Docker's `--ulimit`: `NAME=SOFT[:HARD]`, with `-1` (or `unlimited`) for no limit; without `HARD` that
/// is the same as `SOFT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rlimit {
    kind: RlimitKind,
    soft: Option<u64>,
    hard: Option<u64>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal $resource:ident)*) => {
        /// What is limited.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RlimitKind { $($(#[$doc])* $kind),* }

        impl RlimitKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As Docker, prlimit(1) and limits.conf(5) call it, such as `nofile`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            fn resource(self) -> Resource {
                match self { $(Self::$kind => Resource::$resource),* }
            }
        }
    };
}

kinds! {
    /// `RLIMIT_AS`: address space, bytes.
    AddressSpace "as" As
    /// `RLIMIT_CORE`: a core file, bytes.
    Core "core" Core
    /// `RLIMIT_CPU`: processor time, seconds.
    Cpu "cpu" Cpu
    /// `RLIMIT_DATA`: data segment, bytes.
    Data "data" Data
    /// `RLIMIT_FSIZE`: a file that is written, bytes.
    FileSize "fsize" Fsize
    /// `RLIMIT_LOCKS`: file locks. Linux has ignored it since 2.4.25.
    Locks "locks" Locks
    /// `RLIMIT_MEMLOCK`: memory locked in RAM, bytes.
    LockedMemory "memlock" Memlock
    /// `RLIMIT_MSGQUEUE`: POSIX message queues of the user, bytes.
    MessageQueues "msgqueue" Msgqueue
    /// `RLIMIT_NICE`: 20 minus the lowest nice value.
    Nice "nice" Nice
    /// `RLIMIT_NOFILE`: one more than the highest file descriptor.
    OpenFiles "nofile" Nofile
    /// `RLIMIT_NPROC`: processes and threads of the user on the whole machine. Not for root.
    Processes "nproc" Nproc
    /// `RLIMIT_RSS`: resident memory. Linux ignores it.
    ResidentSet "rss" Rss
    /// `RLIMIT_RTPRIO`: realtime priority.
    RealtimePriority "rtprio" Rtprio
    /// `RLIMIT_RTTIME`: processor time between two blocking calls under a realtime policy, microseconds.
    RealtimeCpu "rttime" Rttime
    /// `RLIMIT_SIGPENDING`: queued signals of the user.
    PendingSignals "sigpending" Sigpending
    /// `RLIMIT_STACK`: the main thread's stack, arguments and environment, bytes.
    Stack "stack" Stack
}

impl Rlimit {
    /// `None` is no limit. The soft one is in force; a process may raise it up to the hard one.
    ///
    /// # Errors
    ///
    /// When the soft limit is above the hard one.
    pub fn new(kind: RlimitKind, soft: Option<u64>, hard: Option<u64>) -> Result<Self, ParseRlimitError> {
        let limit = Self { kind, soft, hard };
        let fits = match (soft, hard) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(soft), Some(hard)) => soft <= hard,
        };
        if fits { Ok(limit) } else { Err(ParseRlimitError::SoftAboveHard { limit }) }
    }

    /// What is limited.
    pub fn kind(&self) -> RlimitKind {
        self.kind
    }

    /// Soft and hard, as the kernel has them.
    pub(crate) fn raw(&self) -> (u64, u64) {
        // `RLIM64_INFINITY`.
        (self.soft.unwrap_or(u64::MAX), self.hard.unwrap_or(u64::MAX))
    }

    /// Async-signal-safe.
    pub(crate) fn apply(&self) -> SystemResult<()> {
        process::setrlimit(self.kind.resource(), process::Rlimit { current: self.soft, maximum: self.hard })
    }

    /// The caller has less itself, and would have to have `CAP_SYS_RESOURCE` to give that.
    pub(crate) fn is_above_the_callers(&self) -> bool {
        let own = process::getrlimit(self.kind.resource()).maximum.unwrap_or(u64::MAX);
        self.hard.unwrap_or(u64::MAX) > own
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
        write!(f, "{}={}:{}", self.kind.name(), text(self.soft), text(self.hard))
    }
}

impl FromStr for Rlimit {
    type Err = ParseRlimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ParseRlimitError::Form { text: text.chars().take(80).collect() };
        let limit = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => Err(form()),
            // The largest number is the kernel's word for no limit.
            _ => text.parse().map_err(|_| form()).map(|limit| Some(limit).filter(|limit| *limit != u64::MAX)),
        };
        let (name, limits) = text.split_once('=').ok_or_else(form)?;
        let kind = RlimitKind::ALL.iter().find(|kind| kind.name() == name);
        let kind = *kind.ok_or_else(|| ParseRlimitError::Name { name: name.chars().take(80).collect() })?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        Self::new(kind, limit(soft)?, limit(hard)?)
    }
}

/// Not a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRlimitError {
    /// It is written in another way.
    #[error("{text:?} is not a limit of the form NAME=SOFT[:HARD], such as nofile=1024:4096; -1 is no limit")]
    #[non_exhaustive]
    Form {
        /// What was given.
        text: String,
    },
    /// There is no such limit.
    #[error("there is no limit {name:?}: {}", names())]
    #[non_exhaustive]
    Name {
        /// What was given.
        name: String,
    },
    /// The soft limit is above the hard one.
    #[error("{limit}: the soft limit cannot be above the hard one")]
    #[non_exhaustive]
    SoftAboveHard {
        /// Both.
        limit: Rlimit,
    },
}

fn names() -> String {
    RlimitKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

impl Fault for ParseRlimitError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_docker_writes_them() {
        let read = |text: &str| text.parse::<Rlimit>().map(|limit| limit.to_string());
        for (text, whole) in [
            ("nofile=100:200", "nofile=100:200"),
            ("nofile=100", "nofile=100:100"),
            ("core=-1", "core=-1:-1"),
            ("core=0:unlimited", "core=0:-1"),
            ("stack=18446744073709551615", "stack=-1:-1"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(whole));
        }
        for kind in RlimitKind::ALL {
            assert!(read(&format!("{}=1:2", kind.name())).is_ok(), "{kind:?}");
        }
        for bad in [
            "",
            "nofile",
            "nofile=",
            "=1",
            "nofile=1:",
            "nofile=:1",
            "nofile=-2",
            "nofile=+1",
            "nofile=1:2:3",
            "nofile=2:1",
            "nofile=-1:5",
            "NOFILE=1",
            "RLIMIT_NOFILE=1",
            "nofile=1k",
            "nofile= 1",
            "nofile=99999999999999999999",
            "x=1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
