//! [`Furnish`]: what is put around an image's tree so that programs feel at home.

use std::ffi::CStr;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::devices::DeviceRequest;
use super::mounts::Mount;
use super::names::Names;

/// What is mounted over and into an image's tree when it is entered. Plain data; `Display` prints it.
///
/// `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` are files in memory, mounted over the image's own. So neither
/// the image nor a persistent upper keeps them (mount points that are missing are made there, empty).
///
/// Parts of `/proc` and `/sys` that show or steer the whole machine, whatever the namespace, are covered or read-only, as Docker and
/// podman have them: `/proc/kcore`, `keys`, `interrupts`, `timer_list`, `acpi`, `asound`, `scsi` and others, `/sys/firmware`,
/// `/sys/devices/virtual/powercap`; `/proc/sys`, `sysrq-trigger`, `bus`, `fs` and `irq`. See [`Furnish::masks`] and
/// [`Furnish::unmask`]. Whoever may mount (`CAP_SYS_ADMIN`) can uncover them.
///
/// An image in which `/proc`, `/sys` or `/dev` is anything but an ordinary directory is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Furnish {
    pub(crate) proc: bool,
    pub(crate) sys: Option<Access>,
    pub(crate) dev: Option<Devices>,
    pub(super) masks: bool,
    pub(super) unmasked: Vec<PathBuf>,
    pub(crate) hostname: bool,
    pub(crate) hosts: bool,
    pub(crate) resolv_conf: bool,
    pub(crate) names: Names,
    pub(crate) mounts: Vec<Mount>,
    /// To be made in the image's tree, if they are missing and can be.
    pub(super) directories: Vec<PathBuf>,
    pub(super) given_devices: Vec<DeviceRequest>,
    /// In bytes, as the next.
    pub(super) shm_size: Option<u64>,
    pub(super) volume_size: Option<u64>,
}

/// Which devices there are in `/dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Devices {
    /// Those that every program may use: null, zero, full, random, urandom, tty.
    Standard,
    /// The host's as well, as they are at that moment. Without the privilege to make device nodes: those that the caller may
    /// read or write.
    Host,
}

/// What may be done with a mount from inside.
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
        Self {
            proc: true,
            sys: Some(Access::ReadOnly),
            dev: Some(Devices::Standard),
            masks: true,
            unmasked: Vec::new(),
            hostname: true,
            hosts: true,
            resolv_conf: true,
            names: Names::default(),
            mounts: Vec::new(),
            directories: Vec::new(),
            given_devices: Vec::new(),
            shm_size: None,
            volume_size: None,
        }
    }
}

impl Furnish {
    /// Nothing: the tree as the image has it.
    pub fn none() -> Self {
        Self {
            proc: false,
            sys: None,
            dev: None,
            masks: true,
            unmasked: Vec::new(),
            hostname: false,
            hosts: false,
            resolv_conf: false,
            names: Names::default(),
            mounts: Vec::new(),
            directories: Vec::new(),
            given_devices: Vec::new(),
            shm_size: None,
            volume_size: None,
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
        self.sys = on.then_some(Access::ReadOnly);
        self
    }

    /// `/sys`, where it can be had writable: in a user namespace, and where the host's is read-only, it stays so.
    #[must_use]
    pub fn sys_with(mut self, access: Access) -> Self {
        self.sys = Some(access);
        self
    }

    /// `/dev`: null, zero, full, random, urandom, tty, pts, shm, mqueue and the usual links.
    #[must_use]
    pub fn dev(mut self, on: bool) -> Self {
        self.dev = on.then_some(Devices::Standard);
        self
    }

    /// `/dev`, with these devices.
    #[must_use]
    pub fn devices(mut self, devices: Devices) -> Self {
        self.dev = Some(devices);
        self
    }

    /// Whether parts of `/proc` and `/sys` are covered and read-only.
    #[must_use]
    pub fn masks(mut self, on: bool) -> Self {
        self.masks = on;
        self
    }

    /// Leaves one of those paths as it is, such as `/proc/kcore`.
    #[must_use]
    pub fn unmask(mut self, path: impl AsRef<Path>) -> Self {
        self.unmasked.push(path.as_ref().to_owned());
        self
    }

    /// The same with the host's devices, `/sys` writable and nothing masked, for programs that are to look after the machine.
    #[must_use]
    pub fn privileged(self) -> Self {
        self.sys_with(Access::ReadWrite).devices(Devices::Host).masks(false)
    }

    pub(super) fn has_masks(&self) -> bool {
        self.masks && (self.proc || self.sys.is_some())
    }

    /// Whether a path below `/proc` or `/sys` is to be masked.
    pub(super) fn is_masked(&self, root: &str, path: &CStr) -> bool {
        let path = Path::new(root).join(path.to_string_lossy().as_ref());
        self.masks && !self.unmasked.contains(&path)
    }

    /// `/etc/hostname`.
    #[must_use]
    pub fn hostname(mut self, on: bool) -> Self {
        self.hostname = on;
        self
    }

    /// `/etc/hosts`: the hostname, and the host's own lines where the [network](crate::Network) is the host's.
    #[must_use]
    pub fn hosts(mut self, on: bool) -> Self {
        self.hosts = on;
        self
    }

    /// `/etc/resolv.conf`: the host's, as it is at that moment; with [pasta](crate::Pasta), it names the address that leads to the host's
    /// resolvers.
    #[must_use]
    pub fn resolv_conf(mut self, on: bool) -> Self {
        self.resolv_conf = on;
        self
    }

    /// Adds a name to `/etc/hosts`: hosts(5). It has no white space and no `#`.
    #[must_use]
    pub fn add_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.names.hosts.push((name.into(), address));
        self
    }

    /// Adds a name server to `/etc/resolv.conf`: resolv.conf(5). The first one replaces the host's; of other lines the host's stay.
    #[must_use]
    pub fn dns_server(mut self, address: IpAddr) -> Self {
        self.names.servers.push(address);
        self
    }

    /// Adds a domain in which names are searched. The first one replaces the host's; `.` alone means none, as in docker.
    #[must_use]
    pub fn dns_search(mut self, domain: impl Into<String>) -> Self {
        self.names.search.push(domain.into());
        self
    }

    /// Adds an option of the resolver's, such as `ndots:2`. The first one replaces the host's.
    #[must_use]
    pub fn dns_option(mut self, option: impl Into<String>) -> Self {
        self.names.options.push(option.into());
        self
    }
}

impl fmt::Display for Furnish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sys = match self.sys {
            Some(Access::ReadWrite) => "/sys             sysfs",
            _ => "/sys             sysfs, read-only",
        };
        let dev = match self.dev {
            Some(Devices::Host) => "/dev             tmpfs with the host's devices, pts, shm, mqueue",
            _ => "/dev             tmpfs with null zero full random urandom tty, pts, shm, mqueue",
        };
        for (on, what) in [
            (self.proc, "/proc            proc"),
            (self.sys.is_some(), sys),
            (self.dev.is_some(), dev),
            (self.has_masks(), "/proc, /sys      parts covered or read-only"),
            (self.hostname, "/etc/hostname    in memory"),
            (self.hosts, "/etc/hosts       the host's and the hostname, in memory"),
            (self.resolv_conf, "/etc/resolv.conf the host's, in memory"),
        ] {
            if on {
                writeln!(f, "{what}")?;
            }
        }
        if self.hosts {
            self.names.hosts.iter().try_for_each(|(name, address)| writeln!(f, "/etc/hosts       {address} {name}"))?;
        }
        if let Some(size) = self.shm_size.filter(|_| self.dev.is_some()) {
            writeln!(f, "/dev/shm         {size} bytes")?;
        }
        self.given_devices.iter().try_for_each(|device| writeln!(f, "{device}"))?;
        self.mounts.iter().try_for_each(|mount| writeln!(f, "{mount}"))
    }
}
