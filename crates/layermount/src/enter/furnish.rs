//! [`Furnish`]: what is put around an image's tree so that programs feel at home.

use std::fmt;
use std::path::{Path, PathBuf};

/// What is mounted over and into an image's tree when it is entered. Plain data; `Display` prints it.
///
/// `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` are files in memory, mounted over the image's own. So neither
/// the image nor a persistent upper keeps them (mount points that are missing are made there, empty).
///
/// An image in which `/proc`, `/sys` or `/dev` is anything but an ordinary directory is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Furnish {
    pub(crate) proc: bool,
    pub(crate) sys: bool,
    pub(crate) dev: bool,
    pub(crate) hostname: bool,
    pub(crate) hosts: bool,
    pub(crate) resolv_conf: bool,
    pub(crate) binds: Vec<Bind>,
}

/// A directory or file of the host that is seen inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) host: PathBuf,
    pub(crate) inside: PathBuf,
    pub(crate) access: Access,
}

/// What may be done with a bind mount from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading, also in all mounts below.
    ReadOnly,
    /// All that the host's permissions allow.
    ReadWrite,
}

/// Everything.
impl Default for Furnish {
    fn default() -> Self {
        Self { proc: true, sys: true, dev: true, hostname: true, hosts: true, resolv_conf: true, binds: Vec::new() }
    }
}

impl Furnish {
    /// Nothing: the tree as the image has it.
    pub fn none() -> Self {
        Self {
            proc: false,
            sys: false,
            dev: false,
            hostname: false,
            hosts: false,
            resolv_conf: false,
            binds: Vec::new(),
        }
    }

    /// `/proc`.
    #[must_use]
    pub fn proc(mut self, on: bool) -> Self {
        self.proc = on;
        self
    }

    /// `/sys`, read-only.
    #[must_use]
    pub fn sys(mut self, on: bool) -> Self {
        self.sys = on;
        self
    }

    /// `/dev`: null, zero, full, random, urandom, tty, pts, shm, mqueue and the usual links.
    #[must_use]
    pub fn dev(mut self, on: bool) -> Self {
        self.dev = on;
        self
    }

    /// `/etc/hostname`.
    #[must_use]
    pub fn hostname(mut self, on: bool) -> Self {
        self.hostname = on;
        self
    }

    /// `/etc/hosts`: the host's, and the hostname.
    #[must_use]
    pub fn hosts(mut self, on: bool) -> Self {
        self.hosts = on;
        self
    }

    /// `/etc/resolv.conf`: the host's, as it is at that moment.
    #[must_use]
    pub fn resolv_conf(mut self, on: bool) -> Self {
        self.resolv_conf = on;
        self
    }

    /// A directory or file of the host, with all that is mounted below it, at a path inside, made when missing. In the order
    /// in which they are given; later ones may lie inside earlier ones.
    #[must_use]
    pub fn bind(mut self, host: impl AsRef<Path>, inside: impl AsRef<Path>, access: Access) -> Self {
        let (host, inside) = (host.as_ref().to_owned(), inside.as_ref().to_owned());
        self.binds.push(Bind { host, inside, access });
        self
    }
}

impl fmt::Display for Furnish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (on, what) in [
            (self.proc, "/proc            proc"),
            (self.sys, "/sys             sysfs, read-only"),
            (self.dev, "/dev             tmpfs with null zero full random urandom tty, pts, shm, mqueue"),
            (self.hostname, "/etc/hostname    in memory"),
            (self.hosts, "/etc/hosts       the host's and the hostname, in memory"),
            (self.resolv_conf, "/etc/resolv.conf the host's, in memory"),
        ] {
            if on {
                writeln!(f, "{what}")?;
            }
        }
        for Bind { host, inside, access } in &self.binds {
            let access = if *access == Access::ReadOnly { ", read-only" } else { "" };
            writeln!(f, "{:<16} bind of {}{access}", inside.display(), host.display())?;
        }
        Ok(())
    }
}
