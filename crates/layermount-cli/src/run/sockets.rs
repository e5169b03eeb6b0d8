//! `--listen`, `--preserve-fds` and `LISTEN_FDS`: descriptors for the program.
//!
//! In the order of podman and runc: the sockets that layermount itself was given as systemd gives them, those that it opens, what else
//! is to be preserved.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use layermount::{Command, ListenFds, inherited_fd};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, Uid, User, chown};
use rustix::fs::OFlags;

use crate::args::{ListenAt, NetworkArgs, UnixSocket};
use crate::failure::{Failure, Result};

/// Of the descriptors that are passed on.
const FIRST: RawFd = 3;

/// Everything that the program is given.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    listening: Vec<(OwnedFd, String)>,
    preserved: Vec<OwnedFd>,
    paths: Vec<SocketPath>,
}

/// The file of a unix socket, removed with this value unless somebody else has put another there.
#[derive(Debug)]
pub(super) struct SocketPath {
    path: PathBuf,
    /// The file itself, so that no other gets its inode number.
    file: OwnedFd,
}

impl Sockets {
    /// First of all, while the numbers are still those that layermount was started with.
    pub(super) fn open(args: &NetworkArgs) -> Result<Self> {
        let mut sockets = Self { listening: ListenFds::inherited()?.into_iter().collect(), ..Self::default() };
        let first = FIRST.saturating_add(RawFd::try_from(sockets.listening.len()).unwrap_or(RawFd::MAX));
        for number in (first..).take(args.preserve_fds.unwrap_or(0).into()) {
            let fd = inherited_fd(number).map_err(|error| {
                Failure::from(error)
                    .with_hint("--preserve-fds N passes on the N descriptors from 3 up, behind those of LISTEN_FDS")
            })?;
            sockets.preserved.push(fd);
        }
        for listen in &args.listen {
            let fd = sockets
                .bind(&listen.at)
                .map_err(|error| Failure::io(format!("cannot listen at {}", listen.typed), error))?;
            sockets.listening.push((fd, listen.name.clone()));
        }
        Ok(sockets)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listening.is_empty() && self.preserved.is_empty()
    }

    /// Gives them to the program. What remains are the files of sockets, which go with it.
    pub(super) fn give(self, command: &mut Command) -> Vec<SocketPath> {
        let first = FIRST.saturating_add(RawFd::try_from(self.listening.len()).unwrap_or(RawFd::MAX));
        for (socket, name) in self.listening {
            command.listen(socket, name);
        }
        for (number, fd) in (first..).zip(self.preserved) {
            command.preserve_fd_as(fd, number);
        }
        self.paths
    }

    fn bind(&mut self, at: &ListenAt) -> io::Result<OwnedFd> {
        match at {
            ListenAt::Tcp(address) => or_ipv4(*address, TcpListener::bind).map(OwnedFd::from),
            ListenAt::Udp(address) => or_ipv4(*address, UdpSocket::bind).map(OwnedFd::from),
            ListenAt::Unix(unix) => {
                let owner = owner(unix)?;
                let listener = bind_unix(unix)?;
                self.paths.push(SocketPath::new(&unix.path)?);
                if let Some((user, group)) = owner {
                    chown(&unix.path, user, group)?;
                }
                Ok(listener.into())
            }
        }
    }
}

/// Where there is no IPv6, all addresses are those of IPv4.
fn or_ipv4<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address) {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) =>
        {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        bound => bound,
    }
}

fn bind_unix(unix: &UnixSocket) -> io::Result<UnixListener> {
    let bind = || {
        // The file has all bits that the mask leaves, from its first moment on.
        let mask = unix.mode.map(|mode| umask(Mode::from_bits_truncate(!mode & 0o777)));
        let bound = UnixListener::bind(&unix.path);
        mask.map(umask);
        bound
    };
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            forget_stale(&unix.path)?;
            bind()
        }
        bound => bound,
    }
}

/// Removes a socket that nobody listens at any more, and nothing else.
fn forget_stale(path: &Path) -> io::Result<()> {
    let refuse = |message: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, message.to_owned()));
    if !path.symlink_metadata()?.file_type().is_socket() {
        return refuse("the path exists, and is not a socket");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // Also where it is another kind of socket, or not for us to ask.
        _ => refuse("somebody listens there already"),
    }
}

fn owner(unix: &UnixSocket) -> io::Result<Option<(Option<Uid>, Option<Gid>)>> {
    let unknown = |what: &str, name: &str| {
        io::Error::new(io::ErrorKind::NotFound, format!("this machine has no {what} {name:?}"))
    };
    let user = |name: &String| match name.parse() {
        Ok(number) => Ok(Uid::from_raw(number)),
        Err(_) => User::from_name(name)?.map(|user| user.uid).ok_or_else(|| unknown("user", name)),
    };
    let group = |name: &String| match name.parse() {
        Ok(number) => Ok(Gid::from_raw(number)),
        Err(_) => Group::from_name(name)?.map(|group| group.gid).ok_or_else(|| unknown("group", name)),
    };
    let (user, group) = (unix.user.as_ref().map(user).transpose()?, unix.group.as_ref().map(group).transpose()?);
    Ok((user.is_some() || group.is_some()).then_some((user, group)))
}

impl SocketPath {
    fn new(path: &Path) -> io::Result<Self> {
        // The process may go elsewhere.
        let path = std::path::absolute(path)?;
        let file =
            rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
        Ok(Self { path, file })
    }

    fn is_still_there(&self) -> bool {
        let (Ok(ours), Ok(there)) = (rustix::fs::fstat(&self.file), rustix::fs::lstat(&self.path)) else {
            return false;
        };
        (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.is_still_there() {
            // There is nobody to be told: what remains is a socket at which nobody listens, and the next one takes its place.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
