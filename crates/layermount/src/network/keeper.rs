//! The process that pasta lives under.
//!
//! ```text
//! caller                    keeper: pid 1 of a new pid namespace          pasta
//!   clone ----------------->  clone ------------------------------------>  waits, in the host's network
//!                             unshare(CLONE_NEWNET), brings lo up
//!                             gives its capabilities up
//!   opens /proc/KEEPER/ns/net <-- says so
//!                             writes a byte ---------------------------->  execve
//!                             waits                                        joins the namespace, binds ports
//!   goes on <---------------  says how that went <---------------------    goes to the background
//!   starts the program, which joins the namespace
//!   sends its pidfd --------> waits for the program's end
//!                             ends, and the kernel kills pasta
//! ```
//!
//! pasta ends by itself when the namespace does only if that is bound to a path somewhere, and only newer versions, a second
//! later, when it is not. With its user it loses what `PR_SET_PDEATHSIG` says. A pid namespace, in which the kernel kills everybody
//! when its first process ends, holds whatever happens: when the caller is killed before it has sent anything, the keeper reads the
//! end of the socket; afterwards it depends on nobody but the program.
//!
//! The namespace is named to pasta as that of a process, which every version takes and AppArmor's profile for it allows. The
//! kernel shows it to a process that has at least the other's capabilities (ptrace(2), "Ptrace access mode checking"): so the keeper
//! has none.

use std::ffi::CString;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Signal, pidfd_send_signal, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities};

use super::error::NetworkError;
use super::pasta::Pasta;
use crate::command::above_streams;
use crate::error::{SyscallContext, SyscallError};
use crate::sys::exec::{self, Strings};
use crate::sys::fork::{self, Process};
use crate::sys::namespace::unshare;
use crate::sys::network::bring_loopback_up;

/// pasta takes a few hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// `/proc/`, a number, `/ns/net`.
const NAMESPACE_ROOM: usize = 64;

/// The network namespace of a program that is to be started or runs, and who keeps it connected.
#[derive(Debug)]
pub(crate) struct Keeper {
    process: Process,
    socket: OwnedFd,
    namespace: OwnedFd,
    /// Whose end it waits for is the program's.
    handed_over: bool,
}

/// Everything that the children need, made ready.
struct Plan {
    program: CString,
    arguments: Strings,
    environment: Strings,
    null: OwnedFd,
    /// pasta's standard error.
    errors: OwnedFd,
    go: (OwnedFd, OwnedFd),
    socket: OwnedFd,
}

/// What the keeper says: one of these, and a number.
const NAMESPACE_IS_THERE: u8 = 1;
const NAMESPACE_FAILED: u8 = 2;
const PASTA_ENDED: u8 = 3;

impl Keeper {
    /// Returns when the namespace is connected.
    pub(super) fn start(pasta: &Pasta) -> Result<Self, NetworkError> {
        let program = pasta.check()?;
        let program = CString::new(program.as_os_str().as_bytes()).map_err(|_| NetworkError::NoPasta)?;
        let arguments = Strings::new(pasta.arguments()?, &[NAMESPACE_ROOM]);
        let (plan, socket, errors) = plan(program, arguments).map_err(cannot("prepare pasta's start"))?;
        let mut plan = Some(plan);
        let process = fork::start_unnoticed(nix::libc::CLONE_NEWPID, &mut || match plan.as_mut() {
            Some(plan) => keep(plan),
            None => 1,
        });
        let process =
            process.syscall("clone3", || "CLONE_NEWPID".to_owned()).map_err(cannot("start a process for pasta"))?;
        drop(plan);
        // Whatever fails from here on, dropping this ends it.
        let ended = Ending(Some(process));
        let said = hear(socket.as_fd())?;
        let (NAMESPACE_IS_THERE, _) = said else {
            let cause = SyscallError::new("unshare", "CLONE_NEWNET", Errno::from_raw_os_error(said.1));
            return Err(NetworkError::System { doing: "make a network namespace", cause });
        };
        let pid = ended.0.as_ref().map_or(0, |process| process.pid.as_raw_pid());
        let path = format!("/proc/{pid}/ns/net");
        let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .syscall("open", || path)
            .map_err(cannot("open the new network namespace"))?;
        match hear(socket.as_fd())? {
            (PASTA_ENDED, 0) => {}
            (_, status) => return Err(NetworkError::Pasta { said: complaint(errors, status) }),
        }
        let Some(process) = ended.keep() else { return Err(NetworkError::NoPasta) };
        Ok(Self { process, socket, namespace, handed_over: false })
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// From now on it lives exactly as long as the program.
    pub(crate) fn hand_over(&mut self, program: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [program];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let message = [std::io::IoSlice::new(b"!")];
        retry_on_intr(|| rustix::net::sendmsg(&self.socket, &message, &mut ancillary, SendFlags::NOSIGNAL))
            .syscall("sendmsg", || "SCM_RIGHTS".to_owned())
            .map_err(cannot("tell whose network it is"))?;
        self.handed_over = true;
        Ok(())
    }

    /// The program has ended: returns when pasta has, too, and the ports are free.
    pub(crate) fn finish(mut self) {
        self.handed_over = false;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.handed_over {
            end(&self.process);
        }
    }
}

/// A process that ends unless it is kept.
struct Ending(Option<Process>);

impl Ending {
    fn keep(mut self) -> Option<Process> {
        self.0.take()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            end(process);
        }
    }
}

/// With it goes its pid namespace, before it can be waited for.
fn end(keeper: &Process) {
    let _ = pidfd_send_signal(&keeper.pidfd, Signal::KILL);
    let _ = fork::wait_unnoticed(keeper);
}

fn cannot(doing: &'static str) -> impl Fn(SyscallError) -> NetworkError {
    move |cause| NetworkError::System { doing, cause }
}

/// And the caller's ends: of the socket, and of pasta's standard error.
fn plan(program: CString, arguments: Strings) -> Result<(Plan, OwnedFd, OwnedFd), SyscallError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).syscall("pipe2", || "O_CLOEXEC".to_owned());
    let (reader, errors) = pipe()?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).syscall("fcntl", || "F_SETFL, O_NONBLOCK".to_owned())?;
    let go = pipe()?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .syscall("open", || "/dev/null".to_owned())?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .syscall("socketpair", || "AF_UNIX, SOCK_SEQPACKET".to_owned())?;
    let plan = Plan {
        program,
        arguments,
        environment: Strings::new(Vec::new(), &[]),
        null: above_streams(null)?,
        errors: above_streams(errors)?,
        go: (above_streams(go.0)?, above_streams(go.1)?),
        socket: above_streams(theirs)?,
    };
    Ok((plan, ours, reader))
}

/// The next message.
fn hear(socket: BorrowedFd<'_>) -> Result<(u8, i32), NetworkError> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(NetworkError::Late { seconds: PATIENCE.as_secs() }),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).syscall("poll", String::new).map_err(cannot("wait for pasta")),
        }
    }
    let mut message = [0_u8; 5];
    let length = retry_on_intr(|| rustix::io::read(socket, &mut message))
        .syscall("read", || "socket".to_owned())
        .map_err(cannot("hear from pasta's process"))?;
    match message {
        [what, number @ ..] if length == message.len() => Ok((what, i32::from_ne_bytes(number))),
        _ => Err(NetworkError::Pasta { said: "its process was killed".to_owned() }),
    }
}

/// What pasta said, but for what is about its log; of much, such as its usage, the beginning.
fn complaint(errors: OwnedFd, status: i32) -> String {
    let mut said = Vec::new();
    // What is there; nobody is waited for.
    let _ = std::fs::File::from(errors).take(64 << 10).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> =
        said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("to syslog")).collect();
    match lines.first() {
        None => format!("it ended with status {status}"),
        Some(_) if lines.len() <= 3 => lines.join("; "),
        Some(first) => first.chars().take(200).collect(),
    }
}

/// The keeper's life; async-signal-safe, as all below.
fn keep(plan: &mut Plan) -> i32 {
    let Ok(pasta) = fork::start_unnoticed(0, &mut || become_pasta(plan)) else {
        return say(plan, NAMESPACE_FAILED, Errno::AGAIN.raw_os_error());
    };
    if let Err(errno) = make_namespace() {
        return say(plan, NAMESPACE_FAILED, errno.raw_os_error());
    }
    say(plan, NAMESPACE_IS_THERE, 0);
    // If that fails, pasta ends without a byte.
    let _ = retry_on_intr(|| rustix::io::write(&plan.go.1, b"!"));
    let status = fork::wait_unnoticed(&pasta).ok().flatten().unwrap_or(-1);
    say(plan, PASTA_ENDED, status);
    if status != 0 {
        return 1;
    }
    let _ = rustix::process::chdir(c"/");
    // Also the caller's standard streams, whose end somebody may wait for, and its own end of the socket.
    exec::close_all_but(plan.socket.as_fd());
    if let Some(program) = receive(plan.socket.as_fd()) {
        let _ = retry_on_intr(|| poll(&mut [PollFd::new(&program, PollFlags::IN)], None));
    }
    0
}

fn make_namespace() -> Result<(), Errno> {
    unshare(UnshareFlags::NEWNET)?;
    bring_loopback_up()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Whoever has moved into a user namespace is not to be looked at otherwise.
    set_dumpable_behavior(DumpableBehavior::Dumpable)
}

fn say(plan: &Plan, what: u8, number: i32) -> i32 {
    let [a, b, c, d] = number.to_ne_bytes();
    // A caller that is gone needs no answer.
    let _ = retry_on_intr(|| rustix::net::send(&plan.socket, &[what, a, b, c, d], SendFlags::NOSIGNAL));
    1
}

/// The descriptor that the caller sends, unless it ends before.
fn receive(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    retry_on_intr(|| rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Waits until there is a namespace, and executes pasta; comes back only when that failed.
fn become_pasta(plan: &mut Plan) -> i32 {
    // With the writing end here, that of the keeper would go unnoticed.
    fork::close_copy(plan.go.1.as_fd());
    if retry_on_intr(|| rustix::io::read(&plan.go.0, &mut [0_u8; 1])) != Ok(1) {
        return 1;
    }
    // The keeper's number where pasta looks for it, which is not necessarily the one of its own pid namespace: the link says
    // that of this process, and the file below it that of its parent.
    let mut parent = [0_u8; 16];
    let Some(digits) = parent_as_proc_has_it(&mut parent) else { return 1 };
    let mut path = [0_u8; NAMESPACE_ROOM];
    let parts = [b"/proc/", digits, b"/ns/net"];
    let length = parts.iter().map(|part| part.len()).sum();
    for (to, from) in path.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    let Some(path) = path.get(..length) else { return 1 };
    let streams = [&plan.null, &plan.errors, &plan.errors];
    for (target, file) in (0..).zip(streams) {
        if exec::duplicate_onto(file.as_fd(), target).is_err() {
            return 1;
        }
    }
    exec::close_all_on_exec();
    if plan.arguments.append([path, b""]) {
        exec::execve(&plan.program, &plan.arguments, &plan.environment);
    }
    127
}

/// `PPid` of `/proc/self/status`.
fn parent_as_proc_has_it(buffer: &mut [u8; 16]) -> Option<&[u8]> {
    let file = rustix::fs::open(c"/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut status = [0_u8; 1024];
    let length = retry_on_intr(|| rustix::io::read(&file, &mut status)).ok()?;
    let mut lines = status.get(..length)?.split(|byte| *byte == b'\n');
    let digits = lines.find_map(|line| line.strip_prefix(b"PPid:"))?.trim_ascii();
    let room = buffer.get_mut(..digits.len())?;
    room.copy_from_slice(digits);
    Some(room)
}
