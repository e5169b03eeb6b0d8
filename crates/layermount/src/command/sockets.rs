//! Descriptors that a program is given under numbers of its own, among them sockets that somebody listens at:
//! sd_listen_fds(3), systemd.socket(5).
//!
//! The numbers that the program is to have may be those of other descriptors at the moment. So each that is to be moved is first
//! copied to a number above all of them, by the parent; copying it to its place then overwrites nothing that is still needed.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::Command;
use super::error::CommandError;
use crate::error::{Error, Result, SyscallContext, SyscallError};
use crate::sys::exec::{self, Strings};

/// The number of the first: `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// Sockets without a name are called so by sd_listen_fds_with_names(3).
const UNNAMED: &str = "unknown";

/// What the kernel allows at most by default (`fs.nr_open`).
pub(super) const MAX_DESCRIPTOR: RawFd = 1 << 20;

const VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

impl Command {
    /// Hands a socket on to the program as systemd does: the first one as descriptor 3, the next as 4, and so on. `LISTEN_FDS` says how
    /// many there are, `LISTEN_PID` the program's own process ID as it sees it, and `LISTEN_FDNAMES` their names: sd_listen_fds(3).
    /// A name is printable ASCII without a colon, at most 255 bytes; an empty one becomes `unknown`.
    ///
    /// The command owns the socket from now on. Variables of the image, or of [`Command::env`], that are called like these go.
    ///
    /// A process that [becomes](crate::Entered::exec) the program, and fails to, has other descriptors under these numbers.
    pub fn listen(&mut self, socket: impl Into<OwnedFd>, name: impl Into<String>) -> &mut Self {
        self.listening.push((socket.into(), name.into()));
        self
    }

    /// Hands a descriptor on to the program under this number, from 3 up and above those of [`Command::listen`].
    pub fn preserve_fd_as(&mut self, fd: impl Into<OwnedFd>, number: RawFd) -> &mut Self {
        self.numbered.push((fd.into(), number));
        self
    }

    /// Where everything goes, and the environment that tells of it.
    pub(super) fn sockets(&self) -> Result<(Placed, Vec<CString>), CommandError> {
        let mut environment = self.environment()?;
        if !self.listening.is_empty() {
            let is_ours = |variable: &CString| {
                let name = variable.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
                VARIABLES.iter().any(|ours| ours.as_bytes() == name)
            };
            environment.retain(|variable| !is_ours(variable));
            let names = self.listening.iter().map(|(_, name)| socket_name(name)).collect::<Result<Vec<_>, _>>()?;
            for text in [format!("LISTEN_FDS={}", names.len()), format!("LISTEN_FDNAMES={}", names.join(":"))] {
                environment.extend(CString::new(text));
            }
        }
        let sockets = (FIRST..).zip(&self.listening).map(|(number, (socket, _))| (socket.as_fd(), number));
        let numbered = self.numbered.iter().map(|(fd, number)| (fd.as_fd(), *number));
        let targets: Vec<_> = sockets.chain(numbered).collect();
        let mut numbers: Vec<RawFd> = targets.iter().map(|(_, number)| *number).collect();
        if let Some(number) = numbers.iter().find(|number| !(FIRST..=MAX_DESCRIPTOR).contains(number)) {
            return Err(CommandError::DescriptorNumber { number: *number });
        }
        numbers.extend(self.preserved.iter().map(AsRawFd::as_raw_fd));
        numbers.sort_unstable();
        if let Some([number, _]) = numbers.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(CommandError::DescriptorTwice { number: *number });
        }
        Ok((Placed::new(&targets)?, environment))
    }
}

fn socket_name(name: &str) -> Result<&str, CommandError> {
    if name.len() > 255 || !name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':') {
        return Err(CommandError::SocketName { name: name.chars().take(40).collect() });
    }
    Ok(if name.is_empty() { UNNAMED } else { name })
}

/// Copies above every number that is somebody's, and where they belong.
#[derive(Debug, Default)]
pub(super) struct Placed {
    files: Vec<(OwnedFd, RawFd)>,
}

impl Placed {
    fn new(targets: &[(BorrowedFd<'_>, RawFd)]) -> Result<Self, CommandError> {
        let Some(highest) = targets.iter().map(|(_, number)| *number).max() else { return Ok(Self::default()) };
        let copy = |(fd, number): &(BorrowedFd<'_>, RawFd)| {
            Ok((
                fcntl_dupfd_cloexec(fd, highest + 1)
                    .syscall("fcntl", || format!("F_DUPFD_CLOEXEC, {}", highest + 1))?,
                *number,
            ))
        };
        let files = targets.iter().map(copy).collect::<Result<_, SyscallError>>();
        let files =
            files.map_err(|cause| CommandError::System { doing: "prepare the program's descriptors", cause })?;
        Ok(Self { files })
    }

    /// A descriptor that is still needed when they are in their places.
    pub(super) fn above(&self, file: OwnedFd) -> Result<OwnedFd, SyscallError> {
        match self.numbers().max() {
            Some(highest) if file.as_raw_fd() <= highest => {
                fcntl_dupfd_cloexec(&file, highest + 1).syscall("fcntl", || format!("F_DUPFD_CLOEXEC, {}", highest + 1))
            }
            _ => Ok(file),
        }
    }

    /// The copies.
    pub(super) fn files(&self) -> impl Iterator<Item = RawFd> {
        self.files.iter().map(|(file, _)| file.as_raw_fd())
    }

    /// Where they go.
    pub(super) fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.files.iter().map(|(_, number)| *number)
    }

    /// Async-signal-safe.
    pub(super) fn place(&self) -> Result<(), Errno> {
        self.files.iter().try_for_each(|(file, number)| exec::duplicate_onto(file.as_fd(), *number))
    }
}

/// `LISTEN_PID`, with the ID that the process has in its own pid namespace. Async-signal-safe.
pub(super) fn append_pid(environment: &mut Strings) -> bool {
    let number = rustix::process::getpid().as_raw_pid().unsigned_abs();
    environment.append([b"LISTEN_PID=", decimal(number, &mut [0; 10])])
}

/// Written without an allocation.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        // Below 10.
        *digit = b'0' + (number % 10) as u8;
        start -= 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

/// The sockets that this process was started with, as systemd, or [`Command::listen`], has passed them: sd_listen_fds(3).
///
/// ```no_run
/// # fn f(command: &mut layermount::Command) -> layermount::Result<()> {
/// for (socket, name) in layermount::ListenFds::inherited()? {
///     command.listen(socket, name);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ListenFds(Vec<(OwnedFd, String)>);

impl ListenFds {
    /// Copies of them, with their names; none unless `LISTEN_PID` is this process. The descriptors themselves stay open, and are no
    /// longer passed on by an execve(2).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when `LISTEN_FDS` is no number, or one of the descriptors is not open.
    pub fn inherited() -> Result<Self> {
        let variable = |name| std::env::var(name).ok();
        let own = std::process::id().to_string();
        match (variable("LISTEN_PID"), variable("LISTEN_FDS")) {
            (Some(pid), Some(count)) if pid == own => Self::of(&count, variable("LISTEN_FDNAMES").as_deref()),
            _ => Ok(Self(Vec::new())),
        }
    }

    fn of(count: &str, names: Option<&str>) -> Result<Self> {
        let wrong = |name, value: &str| {
            Error::from(CommandError::ListenVariable { name, value: value.chars().take(40).collect() })
        };
        let number: RawFd = count.parse().map_err(|_| wrong("LISTEN_FDS", count))?;
        if !(0..=MAX_DESCRIPTOR - FIRST).contains(&number) {
            return Err(wrong("LISTEN_FDS", count));
        }
        let names: Vec<_> = names.map_or_else(Vec::new, |names| names.split(':').collect());
        let inherited = |number: RawFd| {
            let index = usize::try_from(number - FIRST).unwrap_or(usize::MAX);
            Ok((inherited_fd(number)?, names.get(index).copied().unwrap_or_default().to_owned()))
        };
        (FIRST..FIRST + number).map(inherited).collect::<Result<_>>().map(Self)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for ListenFds {
    type Item = (OwnedFd, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A copy of the descriptor with this number, which this process was started with, for [`Command::preserve_fd_as`]. The descriptor
/// itself stays open, and is no longer passed on by an execve(2).
///
/// It is for whoever starts, before other descriptors are opened: later on, the number may be anything's.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when there is none.
pub fn inherited_fd(number: RawFd) -> Result<OwnedFd> {
    match exec::copy_of(number) {
        Err(Errno::BADF | Errno::INVAL) => Err(CommandError::DescriptorNotOpen { number }.into()),
        copy => Ok(copy
            .syscall("fcntl", || format!("{number}, F_DUPFD_CLOEXEC"))
            .map_err(|cause| CommandError::System { doing: "take over a descriptor", cause })?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn variables(command: &Command) -> Vec<String> {
        command.sockets().unwrap().1.iter().map(|text| text.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_environment_tells_of_sockets() {
        let mut command = Command::new("x");
        command.env("LISTEN_FDS", "9").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "x").env("LISTEN_FDS_", "y");
        assert!(variables(&command).contains(&"LISTEN_FDS=9".to_owned()));
        command.listen(null(), "web").listen(null(), "");
        let found = variables(&command);
        let of_listen: Vec<_> = found.iter().filter(|text| text.starts_with("LISTEN")).collect();
        assert_eq!(of_listen, ["LISTEN_FDS_=y", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:unknown"]);
    }

    #[test]
    fn numbers_and_names_that_cannot_be_are_refused() {
        let refused = |change: &dyn Fn(&mut Command)| {
            let mut command = Command::new("x");
            command.listen(null(), "a");
            change(&mut command);
            Error::from(command.sockets().unwrap_err()).kind()
        };
        for number in [-1, 0, 2, 3, MAX_DESCRIPTOR + 1] {
            let twice = |command: &mut Command| {
                command.preserve_fd_as(null(), number);
            };
            assert_eq!(refused(&twice), ErrorKind::InvalidInput, "{number}");
        }
        for name in ["a:b", "ä", "a\n", &"x".repeat(256)] {
            let odd = |command: &mut Command| {
                command.listen(null(), name);
            };
            assert_eq!(refused(&odd), ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn variables_of_systemd_are_read() {
        for bad in ["", "x", "-1", "2000000", "99999999999"] {
            assert_eq!(ListenFds::of(bad, None).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(ListenFds::of("0", Some("a")).unwrap().is_empty());
        assert_eq!(inherited_fd(MAX_DESCRIPTOR - 1).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(inherited_fd(-1).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn numbers_are_written_without_allocation() {
        for number in [0, 1, 9, 10, 4_194_304, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
        let mut strings = Strings::new(Vec::new(), &[32]);
        assert!(append_pid(&mut strings) && !append_pid(&mut strings), "there is room for one");
        strings.forget_appended();
        assert!(append_pid(&mut strings));
    }
}
