//! [`Capabilities`]: the parts that root's power is made of, as a set.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// A set of capabilities: capabilities(7).
///
/// Read from and written as names, with or without `CAP_`, in either case, with commas between them; `ALL` is every one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u64);

macro_rules! capabilities {
    ($($number:literal $name:ident)*) => {
        impl Capabilities {
            $(
                #[doc = concat!("`CAP_", stringify!($name), "`.")]
                pub const $name: Self = Self(1 << $number);
            )*

            /// Every capability of Linux 5.9, after which none came.
            pub const ALL: Self = Self(0 $(| 1 << $number)*);
        }

        const NAMES: &[(&str, Capabilities)] = &[$((stringify!($name), Capabilities::$name)),*];
    };
}

capabilities! {
    0 CHOWN
    1 DAC_OVERRIDE
    2 DAC_READ_SEARCH
    3 FOWNER
    4 FSETID
    5 KILL
    6 SETGID
    7 SETUID
    8 SETPCAP
    9 LINUX_IMMUTABLE
    10 NET_BIND_SERVICE
    11 NET_BROADCAST
    12 NET_ADMIN
    13 NET_RAW
    14 IPC_LOCK
    15 IPC_OWNER
    16 SYS_MODULE
    17 SYS_RAWIO
    18 SYS_CHROOT
    19 SYS_PTRACE
    20 SYS_PACCT
    21 SYS_ADMIN
    22 SYS_BOOT
    23 SYS_NICE
    24 SYS_RESOURCE
    25 SYS_TIME
    26 SYS_TTY_CONFIG
    27 MKNOD
    28 LEASE
    29 AUDIT_WRITE
    30 AUDIT_CONTROL
    31 SETFCAP
    32 MAC_OVERRIDE
    33 MAC_ADMIN
    34 SYSLOG
    35 WAKE_ALARM
    36 BLOCK_SUSPEND
    37 AUDIT_READ
    38 PERFMON
    39 BPF
    40 CHECKPOINT_RESTORE
}

impl Capabilities {
    /// What Docker gives to a container's root: enough to install packages, change users and serve low ports.
    pub const CONTAINER: Self = Self(
        Self::CHOWN.0
            | Self::DAC_OVERRIDE.0
            | Self::FSETID.0
            | Self::FOWNER.0
            | Self::MKNOD.0
            | Self::NET_RAW.0
            | Self::SETGID.0
            | Self::SETUID.0
            | Self::SETFCAP.0
            | Self::SETPCAP.0
            | Self::NET_BIND_SERVICE.0
            | Self::SYS_CHROOT.0
            | Self::KILL.0
            | Self::AUDIT_WRITE.0,
    );

    /// None.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Whether there is none in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The name of one, with `CAP_`.
    pub(crate) fn name_of(bit: u64) -> Option<String> {
        NAMES.iter().find(|(_, capability)| capability.0 == bit).map(|(name, _)| format!("CAP_{name}"))
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As the kernel has it: bit N for capability N.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

/// Names with `CAP_`, in the kernel's order.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, capability) in NAMES {
            if self.contains(*capability) {
                write!(f, "{separator}CAP_{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({self})")
    }
}

/// Not a set of capabilities.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not a capability, such as NET_ADMIN, CAP_NET_ADMIN or ALL")]
pub struct ParseCapabilitiesError {
    text: String,
}

impl crate::error::Fault for ParseCapabilitiesError {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::InvalidInput
    }
}

impl FromStr for Capabilities {
    type Err = ParseCapabilitiesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').try_fold(Self::empty(), |all, word| {
            let upper = word.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            // As docker has it, which knows no CAP_ALL.
            if upper == "ALL" {
                return Ok(all | Self::ALL);
            }
            let found = NAMES.iter().find(|(known, _)| *known == name);
            let (_, capability) =
                found.ok_or_else(|| ParseCapabilitiesError { text: word.chars().take(40).collect() })?;
            Ok(all | *capability)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_spelling() {
        let set = |text: &str| text.parse::<Capabilities>();
        for text in ["CAP_NET_ADMIN", "net_admin", "NET_ADMIN", "Cap_Net_Admin"] {
            assert_eq!(set(text).unwrap(), Capabilities::NET_ADMIN, "{text}");
        }
        assert_eq!(set("kill,CAP_CHOWN").unwrap().to_string(), "CAP_CHOWN,CAP_KILL");
        assert_eq!(set("all").unwrap(), Capabilities::ALL);
        for bad in ["", "CAP_ALL", "CAP_", "CAP_CAP_KILL", "NET-ADMIN", "kill,", "12"] {
            assert!(set(bad).is_err(), "{bad:?}");
        }
        assert_eq!(set(&Capabilities::CONTAINER.to_string()).unwrap(), Capabilities::CONTAINER);
    }

    #[test]
    fn bits_are_the_kernels() {
        assert_eq!(Capabilities::CONTAINER.bits(), 0xa804_25fb);
        assert_eq!(Capabilities::ALL.bits(), (1 << 41) - 1);
        assert_eq!(Capabilities::ALL.without(Capabilities::ALL), Capabilities::empty());
    }
}
