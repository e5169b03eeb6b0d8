//! The last steps to the program: streams, user, working directory, descriptors, `execve`.
//!
//! [`Launch`] has everything ready, so that [`Launch::run`] is async-signal-safe: it runs in a child of a threaded program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{self, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::confine::Confinement;
use super::magic_links;
use super::sockets::{Placed, append_pid};
use super::terminal::Slave;
use super::timings::{StartPhase, StopWatch};
use super::user::{Id, UserSpec, add_groups_of, find_group, find_user};
use super::{herald, init};
use crate::resources::Rlimit;
use crate::script::{Failure, exists, make_directories, open_in_root};
use crate::sys::{exec, fd, fork};

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
    /// Besides those that the user is in.
    pub(super) added_groups: Vec<Id>,
    pub(super) directory: CString,
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) preserved: Vec<RawFd>,
    /// The numbers of all that the program gets besides the streams.
    pub(super) kept: Vec<RawFd>,
    /// Descriptors under other numbers than they have here.
    pub(super) placed: Placed,
    /// The program is told by `LISTEN_PID` that sockets are for it.
    pub(super) listens: bool,
    pub(super) die_with_parent: bool,
    pub(super) rlimits: Vec<Rlimit>,
    /// In place of the streams that are not given.
    pub(super) terminal: Option<Slave>,
    /// The program is the child of an init, which this process becomes.
    pub(super) init: Option<init::Plan>,
    pub(super) confinement: Confinement,
    /// A user namespace with a single user: there are no other groups to be in.
    pub(super) single_user: bool,
    /// Of `MAX_DATABASE` bytes.
    pub(super) database: Vec<u8>,
    /// With a capacity of `MAX_GROUPS`.
    pub(super) groups: Vec<Gid>,
    /// Besides those of the image's own files.
    pub(super) more_groups: Vec<Gid>,
}

/// What failed on the way; the position of a [`Failure`] is one of these, from [`Stage::FIRST`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Stage {
    Join = Stage::FIRST,
    JoinCgroup,
    UserNamespace,
    Cgroups,
    CgroupNamespace,
    Terminal,
    Streams,
    UserNotFound,
    GroupNotFound,
    TooManyGroups,
    Home,
    WorkingDirectory,
    Keyring,
    NoNewPrivileges,
    Rlimits,
    Groups,
    Credentials,
    Capabilities,
    Seccomp,
    Parent,
    Preserve,
    MagicLink,
    Place,
    Init,
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
            Join,
            JoinCgroup,
            UserNamespace,
            Cgroups,
            CgroupNamespace,
            Terminal,
            Streams,
            UserNotFound,
            GroupNotFound,
            TooManyGroups,
            Home,
            WorkingDirectory,
            Keyring,
            NoNewPrivileges,
            Rlimits,
            Groups,
            Credentials,
            Capabilities,
            Seccomp,
            Parent,
            Preserve,
            MagicLink,
            Place,
            Init,
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

    fn without(self, group: Missing) -> Stopped {
        Stopped { stage: self, errno: Errno::NOENT, group: Some(group) }
    }

    pub(super) fn failed(self, errno: Errno) -> Stopped {
        Stopped { stage: self, errno, group: None }
    }
}

/// Whom a child tells what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report<'a> {
    /// For [`ABOUT_TO_EXEC`].
    pub(super) writer: BorrowedFd<'a>,
    /// For what takes more than bytes; with a terminal or an init.
    pub(super) herald: Option<BorrowedFd<'a>>,
    /// `/proc/self/maps`, for an init.
    pub(super) maps: Option<BorrowedFd<'a>>,
}

/// Where and why it ended.
pub(super) struct Stopped {
    stage: Stage,
    errno: Errno,
    /// The one that is missing.
    group: Option<Missing>,
}

/// A group that the image has not.
enum Missing {
    Users,
    /// One of the added ones, by number.
    Added(usize),
}

impl Stopped {
    /// As the parent is told: with the name of the group that is missing.
    pub(super) fn failure(&self, user: &UserSpec, added: &[Id]) -> Failure {
        let mut failure = self.stage.failure(self.errno);
        let group = match self.group {
            Some(Missing::Users) => user.group.as_ref(),
            Some(Missing::Added(index)) => added.get(index),
            None => None,
        };
        if let Some(Id::Name(name)) = group {
            failure.append(name);
        }
        failure
    }
}

/// Who the program runs as.
pub(super) struct Identity {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Launch {
    /// Becomes the program; comes back only when that failed. `report` is told right before.
    pub(super) fn run(&mut self, report: Option<Report<'_>>, watch: Option<&mut StopWatch>) -> Failure {
        self.environment.forget_appended();
        let Stopped { stage, errno, group } = match self.prepare(report) {
            Ok(()) => {
                if let Some(watch) = watch {
                    watch.lap(StartPhase::Become);
                }
                self.execute()
            }
            Err(stopped) => stopped,
        };
        Stopped { stage, errno, group }.failure(&self.user, &self.added_groups)
    }

    /// Forgets what a child has opened, whose memory this was but whose table of descriptors was another.
    pub(super) fn disown(&mut self) {
        if let Some(slave) = &mut self.terminal {
            slave.disown();
        }
    }

    /// In an order that the kernel dictates for the most part: see [`Confinement`].
    fn prepare(&mut self, report: Option<Report<'_>>) -> Result<(), Stopped> {
        self.replace_streams()?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let identity = self.identify()?;
        if let Some(slave) = &self.terminal {
            slave.give_to(identity.uid).map_err(|errno| Stage::Terminal.failed(errno))?;
        }
        self.enter_directory().map_err(|errno| Stage::WorkingDirectory.failed(errno))?;
        self.refuse_magic_links()?;
        self.confinement.begin(identity.uid.is_root())?;
        if report.is_none() || !self.rlimits.is_empty() {
            // Before the limits, of which that of open files would be taken for how many there are.
            fd::close_all_on_exec();
        }
        let gate = self.init.is_some().then(init::Gate::new).transpose();
        let gate = gate.map_err(|errno| Stage::Init.failed(errno))?;
        // To raise them is a privilege.
        for limit in &self.rlimits {
            limit.apply().map_err(|errno| Stage::Rlimits.failed(errno))?;
        }
        self.become_user(&identity)?;
        if self.die_with_parent {
            // After the change of user, which would clear it.
            let signal = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(signal).map_err(|errno| Stage::Parent.failed(errno))?;
        }
        self.leave_init_behind(gate, &identity, report)?;
        if let Some(slave) = &self.terminal {
            slave.control().map_err(|errno| Stage::Terminal.failed(errno))?;
        }
        self.place_descriptors()?;
        match report {
            Some(report) => self.announce(report)?,
            // A child has done so at its beginning.
            None => fork::reset_signals(),
        }
        // Behind the report, which a filter might refuse.
        self.confinement.finish(identity.uid.is_root())
    }

    fn replace_streams(&self) -> Result<(), Stopped> {
        for (target, stream) in (0..).zip(&self.streams) {
            let stream = stream.as_ref().or_else(|| self.terminal.as_ref()?.file());
            if let Some(stream) = stream {
                fd::duplicate_onto(stream.as_fd(), target).map_err(|errno| Stage::Streams.failed(errno))?;
            }
        }
        Ok(())
    }

    /// This process becomes the init, if there is to be one, and its child goes on.
    fn leave_init_behind(
        &self,
        gate: Option<init::Gate>,
        identity: &Identity,
        report: Option<Report<'_>>,
    ) -> Result<(), Stopped> {
        let (Some(plan), Some(gate)) = (&self.init, gate) else { return Ok(()) };
        let failed = |errno| Stage::Init.failed(errno);
        let confine = || self.confinement.finish(identity.uid.is_root());
        init::divide(plan, gate, confine, report.and_then(|report| report.maps)).map_err(failed)?;
        report.and_then(|report| report.herald).map_or(Ok(()), herald::announce).map_err(failed)
    }

    /// From here on, what this process has opened for itself may be overwritten.
    fn place_descriptors(&mut self) -> Result<(), Stopped> {
        self.placed.place().map_err(|errno| Stage::Place.failed(errno))?;
        if self.listens && !append_pid(&mut self.environment) {
            return Err(Stage::Place.failed(Errno::NAMETOOLONG));
        }
        let mut preserved = self.preserved.iter();
        preserved.try_for_each(|number| fd::keep_on_exec(*number)).map_err(|errno| Stage::Preserve.failed(errno))
    }

    /// Tells the parent, and has nothing open any more but that way and what is the program's.
    fn announce(&self, Report { writer, .. }: Report<'_>) -> Result<(), Stopped> {
        // The table of descriptors is this child's own.
        let streams = [0, 1, 2, writer.as_raw_fd()];
        fd::close_all_except(self.kept.iter().copied().chain(streams));
        fork::heed_stops();
        // A parent that is gone by now was gone before it could have killed us: SIGPIPE does it instead.
        rustix::io::write(writer, &[ABOUT_TO_EXEC]).map_err(|errno| Stage::Parent.failed(errno)).map(drop)
    }

    /// With the working directory of the program and the privileges of before.
    fn refuse_magic_links(&self) -> Result<(), Stopped> {
        let mut candidates = self.candidates.iter();
        candidates.try_for_each(|path| magic_links::refuse(path)).map_err(|errno| Stage::MagicLink.failed(errno))
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
        let found =
            identify(root, &self.user, &self.added_groups, &mut self.database, &mut self.groups, &mut take_home)?;
        let room = self.groups.capacity() - self.groups.len();
        // The first is that of the program that is joined, which is among them.
        let more = self.more_groups.iter().copied().filter(|group| *group != found.gid);
        self.groups.extend(more.take(room));
        Ok(found)
    }

    /// Made when missing, as Docker does. Resolved in the root without magic links, so it cannot lie outside.
    fn enter_directory(&self) -> Result<()> {
        let root = fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let directory = make_directories(root.as_fd(), &self.directory)?;
        rustix::process::fchdir(directory)
    }

    fn become_user(&self, identity: &Identity) -> Result<(), Stopped> {
        let Identity { uid, gid } = *identity;
        if self.single_user && !self.added_groups.is_empty() {
            return Err(Stage::Groups.failed(Errno::PERM));
        }
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
/// are the user's own only when no group was asked for, and the one that counts is always among them.
///
/// `take_home` is told the home directory, and says whether it can be used. `groups` has a capacity of `MAX_GROUPS`.
pub(super) fn identify(
    root: Result<BorrowedFd<'_>>,
    spec: &UserSpec,
    added: &[Id],
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
    let needs_names =
        !matches!(spec.group, Some(Id::Number(_))) || added.iter().any(|group| matches!(group, Id::Name(_)));
    let length = if needs_names { read(c"etc/group", database) } else { 0 };
    let database = database.get(..length).unwrap_or_default();
    if let Some(group) = &spec.group {
        gid = number_of(database, group).ok_or(Stage::GroupNotFound.without(Missing::Users))?;
    }
    let too_many = Stage::TooManyGroups.failed(Errno::NOSPC);
    // Or a program could leave it by executing a set-group-ID one, as far as it is there to forbid something (CVE-2022-36109).
    groups.push(Gid::from_raw(gid));
    if spec.group.is_none() && !add_groups_of(database, name, groups) {
        return Err(too_many);
    }
    for (index, group) in added.iter().enumerate() {
        let number = number_of(database, group).ok_or(Stage::GroupNotFound.without(Missing::Added(index)))?;
        let number = Gid::from_raw(number);
        if groups.contains(&number) {
            continue;
        }
        if groups.len() == groups.capacity() {
            return Err(too_many);
        }
        groups.push(number);
    }
    Ok(Identity { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) })
}

/// A number is one, whether or not the image has a group of that number.
fn number_of(database: &[u8], group: &Id) -> Option<u32> {
    match group {
        Id::Number(number) => Some(*number),
        Id::Name(_) => find_group(database, group),
    }
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
