//! The last steps to the program: streams, user, working directory, descriptors, `execve`.
//!
//! [`Launch`] has everything ready, so that [`Launch::run`] is async-signal-safe: it runs in a child of a threaded program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{self, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::confine::Confinement;
use super::user::{Id, UserSpec, add_groups_of, find_group, find_user};
use crate::script::{Failure, exists, make_directories, open_in_root};
use crate::sys::{exec, fork};

type Result<T, E = Errno> = std::result::Result<T, E>;

/// Written to the parent right before `execve`: from then on, silence means success.
pub(super) const ABOUT_TO_EXEC: u8 = b'!';

/// More than any distribution needs; an image that lists more is refused.
pub(super) const MAX_GROUPS: usize = 1024;

/// Of `/etc/passwd` and `/etc/group`.
pub(super) const MAX_DATABASE: usize = 1 << 20;

/// Everything that the way into a program needs.
#[derive(Debug)]
pub(super) struct Launch {
    /// The program's possible paths, in order.
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: exec::Strings,
    pub(super) environment: exec::Strings,
    /// `HOME` is not in the environment.
    pub(super) wants_home: bool,
    pub(super) user: UserSpec,
    pub(super) directory: CString,
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) preserved: Vec<RawFd>,
    pub(super) die_with_parent: bool,
    pub(super) confinement: Confinement,
    /// A user namespace with a single user: there are no other groups to be in.
    pub(super) single_user: bool,
    /// Of `MAX_DATABASE` bytes.
    pub(super) database: Vec<u8>,
    /// With a capacity of `MAX_GROUPS`.
    pub(super) groups: Vec<Gid>,
}

/// What failed on the way; the position of a [`Failure`] is one of these, from [`Stage::FIRST`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Stage {
    UserNamespace = Stage::FIRST,
    Streams,
    UserNotFound,
    GroupNotFound,
    TooManyGroups,
    Home,
    WorkingDirectory,
    Keyring,
    NoNewPrivileges,
    Groups,
    Credentials,
    Capabilities,
    Seccomp,
    Parent,
    Preserve,
    ProgramNotFound,
    InterpreterNotFound,
    NotExecutable,
}

impl Stage {
    /// Far above the number of steps of any script.
    pub(super) const FIRST: u32 = 1 << 30;

    pub(super) fn of(failure: &Failure) -> Option<Self> {
        use Stage::*;
        [
            UserNamespace,
            Streams,
            UserNotFound,
            GroupNotFound,
            TooManyGroups,
            Home,
            WorkingDirectory,
            Keyring,
            NoNewPrivileges,
            Groups,
            Credentials,
            Capabilities,
            Seccomp,
            Parent,
            Preserve,
            ProgramNotFound,
            InterpreterNotFound,
            NotExecutable,
        ]
        .into_iter()
        .find(|stage| *stage as u32 == failure.position)
    }

    /// As the parent is told.
    pub(super) fn failure(self, errno: Errno) -> Failure {
        Failure::new(self as u32, errno)
    }

    pub(super) fn failed(self, errno: Errno) -> Stopped {
        Stopped { stage: self, errno }
    }
}

/// Where and why it ended.
pub(super) struct Stopped {
    stage: Stage,
    errno: Errno,
}

impl Stopped {
    /// As the parent is told.
    pub(super) fn failure(&self) -> Failure {
        self.stage.failure(self.errno)
    }
}

/// Who the program runs as.
pub(super) struct Identity {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Launch {
    /// Becomes the program; comes back only when that failed. `report` is told right before.
    pub(super) fn run(&mut self, report: Option<BorrowedFd<'_>>) -> Failure {
        let Stopped { stage, errno } = match self.prepare(report) {
            Ok(()) => self.execute(),
            Err(stopped) => stopped,
        };
        Failure::new(stage as u32, errno)
    }

    fn prepare(&mut self, report: Option<BorrowedFd<'_>>) -> Result<(), Stopped> {
        for (target, stream) in (0..).zip(&self.streams) {
            if let Some(stream) = stream {
                exec::duplicate_onto(stream.as_fd(), target).map_err(|errno| Stage::Streams.failed(errno))?;
            }
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let identity = self.identify()?;
        self.enter_directory().map_err(|errno| Stage::WorkingDirectory.failed(errno))?;
        self.confinement.begin(identity.uid.is_root())?;
        self.become_user(&identity)?;
        if self.die_with_parent {
            // After the change of user, which would clear it.
            let signal = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(signal).map_err(|errno| Stage::Parent.failed(errno))?;
        }
        exec::close_all_on_exec();
        for fd in &self.preserved {
            exec::keep_on_exec(*fd).map_err(|errno| Stage::Preserve.failed(errno))?;
        }
        if let Some(report) = report {
            fork::heed_stops();
            // A parent that is gone by now was gone before it could have killed us: SIGPIPE does it instead.
            rustix::io::write(report, &[ABOUT_TO_EXEC]).map_err(|errno| Stage::Parent.failed(errno))?;
        } else {
            // A child has done so at its beginning.
            fork::reset_signals();
        }
        // Behind the report, which a filter might refuse.
        self.confinement.finish(identity.uid.is_root())
    }

    fn execute(&self) -> Stopped {
        let mut refused = None;
        for candidate in &self.candidates {
            match exec::execve(candidate, &self.arguments, &self.environment) {
                Errno::NOENT if exists(candidate) => return Stage::InterpreterNotFound.failed(Errno::NOENT),
                Errno::NOENT | Errno::NOTDIR => {}
                // As a shell does: perhaps a later directory of PATH has one that may be executed.
                Errno::ACCESS => refused = Some(Errno::ACCESS),
                errno => return Stage::NotExecutable.failed(errno),
            }
        }
        match refused {
            Some(errno) => Stage::NotExecutable.failed(errno),
            None => Stage::ProgramNotFound.failed(Errno::NOENT),
        }
    }

    fn identify(&mut self) -> Result<Identity, Stopped> {
        let root = fs::openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.as_ref().map(AsFd::as_fd).map_err(|errno| *errno);
        let (wants_home, environment) = (self.wants_home, &mut self.environment);
        let mut take_home = |home: &[u8]| !wants_home || !home.contains(&0) && environment.append([b"HOME=", home]);
        identify(root, &self.user, &mut self.database, &mut self.groups, &mut take_home)
    }

    /// Made when missing, as Docker does. Resolved in the root without magic links, so it cannot lie outside.
    fn enter_directory(&self) -> Result<()> {
        let root = fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let directory = make_directories(root.as_fd(), &self.directory)?;
        rustix::process::fchdir(directory)
    }

    fn become_user(&self, identity: &Identity) -> Result<(), Stopped> {
        let Identity { uid, gid } = *identity;
        if self.single_user && uid.is_root() && gid.is_root() {
            return Ok(());
        }
        if !self.single_user {
            rustix::thread::set_thread_groups(&self.groups).map_err(|errno| Stage::Groups.failed(errno))?;
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|errno| Stage::Credentials.failed(errno))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|errno| Stage::Credentials.failed(errno))
    }
}

/// As Docker does: a user that is only a number needs no line in passwd, and then has group 0 and home `/`; other groups
/// are the user's own only when no group was asked for.
///
/// `take_home` is told the home directory, and says whether it can be used. `groups` has a capacity of `MAX_GROUPS`.
pub(super) fn identify(
    root: Result<BorrowedFd<'_>>,
    spec: &UserSpec,
    database: &mut [u8],
    groups: &mut Vec<Gid>,
    take_home: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<Identity, Stopped> {
    let read = |path, database: &mut [u8]| root.and_then(|root| read_database(root, path, database)).unwrap_or(0);
    let length = read(c"etc/passwd", database);
    let user = find_user(database.get(..length).unwrap_or_default(), &spec.user);
    let (uid, mut gid) = match (&spec.user, &user) {
        (_, Some(user)) => (user.uid, user.gid),
        (Id::Number(uid), None) => (*uid, 0),
        (Id::Name(_), None) => return Err(Stage::UserNotFound.failed(Errno::NOENT)),
    };
    let home = user.map(|user| user.home).filter(|home| home.starts_with(b"/")).unwrap_or(b"/");
    if !take_home(home) {
        return Err(Stage::Home.failed(Errno::NAMETOOLONG));
    }
    // The name has to survive the other file's taking its place.
    let mut name = [0_u8; 256];
    let name = match user.and_then(|user| Some((name.get_mut(..user.name.len())?, user.name))) {
        Some((room, name)) => {
            room.copy_from_slice(name);
            &*room
        }
        None => &[],
    };
    groups.clear();
    let number = match &spec.group {
        Some(Id::Number(number)) => Some(*number),
        _ => None,
    };
    if let Some(number) = number {
        gid = number;
    } else {
        let length = read(c"etc/group", database);
        let database = database.get(..length).unwrap_or_default();
        match &spec.group {
            Some(group) => {
                gid = find_group(database, group).ok_or(Stage::GroupNotFound.failed(Errno::NOENT))?;
            }
            None if add_groups_of(database, name, groups) => {}
            None => return Err(Stage::TooManyGroups.failed(Errno::NOSPC)),
        }
    }
    Ok(Identity { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) })
}

/// Reads a file of the image that may be anything: a fifo, a device, a link, endless.
fn read_database(root: BorrowedFd<'_>, path: &CStr, buffer: &mut [u8]) -> Result<usize> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_in_root(root, path, flags)?;
    let stat = fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    if usize::try_from(stat.st_size).map_or(true, |size| size > buffer.len()) {
        return Err(Errno::FBIG);
    }
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match rustix::io::read(&file, room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}
