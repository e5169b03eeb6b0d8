//! Which users there are inside: the user namespace that layermount itself moves into when it is not root's.
//!
//! `newuidmap` and `newgidmap` take a while to map ranges. They are started before the image is looked for, and waited for when it
//! was found.

use std::str::FromStr;

use layermount::{Error, ErrorKind, IdMaps, UserNamespace};

use crate::failure::{Failure, Result};

/// `--userns`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Users {
    /// For root the host's users; for everybody else oneself as root, and the subordinate IDs that one is granted.
    #[default]
    Default,
    /// The host's users.
    Host,
    /// As without the option, for an ordinary user.
    Auto,
    /// As auto, but the program runs as oneself.
    KeepId,
    /// These.
    Map(IdMaps),
}

impl FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "host" => Ok(Self::Host),
            None if text == "auto" => Ok(Self::Auto),
            None if text == "keep-id" => Ok(Self::KeepId),
            Some(("map", maps)) => {
                Ok(Self::Map(maps.parse().map_err(|error: layermount::ParseIdMapsError| error.to_string())?))
            }
            _ => Err("write host, auto, keep-id or map:INSIDE:OUTSIDE:COUNT[,...]".into()),
        }
    }
}

/// A user namespace that is being made.
#[derive(Debug)]
pub(crate) struct Entrance {
    namespace: Option<UserNamespace>,
    /// Its map is what the machine grants, and may turn out to be less.
    granted: bool,
    /// Why there is only one user in it.
    single: Option<Error>,
    keeps_id: bool,
    /// Whether there is no way around it.
    needed: bool,
}

/// What came of entering.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    /// Why there is only one user.
    pub(crate) single: Option<Error>,
    /// For the program alone.
    pub(crate) kept: Option<IdMaps>,
}

impl Entrance {
    /// For a command that mounts.
    pub(crate) fn begin(users: &Users) -> Result<Self> {
        let is_root = !UserNamespace::is_needed();
        match (users, is_root) {
            (Users::Default | Users::Host, true) => Ok(Self::none()),
            (Users::Host, false) => {
                Err(Failure::new(ErrorKind::PermissionDenied, "only root can run a program with the host's users")
                    .with_hint("leave --userns away, or use --userns auto"))
            }
            (_, true) => Err(Failure::new(
                ErrorKind::Unsupported,
                "root runs programs with the host's users: the owners of the store's layers are not mapped for it",
            )
            .with_hint("leave --userns away, or run layermount as an ordinary user")),
            (Users::Map(maps), false) => {
                Ok(Self { namespace: Some(UserNamespace::prepare(maps.clone())?), ..Self::none() })
            }
            (Users::Default | Users::Auto | Users::KeepId, false) => {
                let keeps_id = *users == Users::KeepId;
                Ok(Self { keeps_id, needed: true, ..Self::granted()? })
            }
        }
    }

    /// For a command that only unpacks or reads: without the namespace it has to do with what its own rights are.
    pub(crate) fn if_possible() -> Result<Self> {
        if UserNamespace::is_needed() { Self::granted() } else { Ok(Self::none()) }
    }

    fn none() -> Self {
        Self { namespace: None, granted: false, single: None, keeps_id: false, needed: true }
    }

    fn granted() -> Result<Self> {
        let prepared = IdMaps::granted().and_then(UserNamespace::prepare);
        let (namespace, single) = match prepared {
            Ok(namespace) => (namespace, None),
            Err(error) if !is_for_good(&error) => return Err(error.into()),
            Err(error) => (UserNamespace::prepare(IdMaps::single())?, Some(error)),
        };
        Ok(Self { namespace: Some(namespace), granted: single.is_none(), single, keeps_id: false, needed: false })
    }

    /// The maps that it will have, if all goes well.
    pub(crate) fn maps(&self) -> Option<&IdMaps> {
        self.namespace.as_ref().map(UserNamespace::maps)
    }

    /// Moves this process into it.
    pub(crate) fn enter(self) -> Result<Inside> {
        let Self { namespace, granted, mut single, keeps_id, needed } = self;
        let Some(namespace) = namespace else { return Ok(Inside::default()) };
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut maps = namespace.maps().clone();
        let mut entered = namespace.enter();
        // The helpers say only now that they do not map what is granted.
        if granted && entered.as_ref().is_err_and(is_for_good) {
            maps = IdMaps::single();
            let alone = UserNamespace::prepare(maps.clone()).and_then(UserNamespace::enter);
            single = std::mem::replace(&mut entered, alone).err();
        }
        match entered {
            Ok(()) => {}
            Err(error) if needed => {
                return Err(Failure::from(error).with_advice("'layermount doctor' tells what this machine allows"));
            }
            Err(_) => return Ok(Inside { single, kept: None }),
        }
        Ok(Inside { single, kept: keeps_id.then(|| maps.keeping(own.0, own.1)) })
    }
}

/// Whether it is the machine that does not allow all users. What is only lacking at the moment (processes, open files, memory) must
/// not make an image another one, without a word where its layers were unpacked for a single user before.
fn is_for_good(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}

/// The one user of the user namespace that this process is in, if it has only one, and one group.
pub(crate) fn sole_user() -> Option<u32> {
    let only = |map: &str| {
        let map = std::fs::read_to_string(format!("/proc/self/{map}")).ok()?;
        match map.split_whitespace().collect::<Vec<_>>()[..] {
            [inside, _, "1"] => inside.parse().ok(),
            _ => None,
        }
    };
    only("gid_map").and(only("uid_map"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_as_podman_does() {
        assert_eq!("host".parse(), Ok(Users::Host));
        assert_eq!("keep-id".parse(), Ok(Users::KeepId));
        assert!(matches!("map:0:1000:1".parse(), Ok(Users::Map(_))));
        for bad in ["", "private", "map", "map:", "map:0", "auto:x", "nomap"] {
            assert!(bad.parse::<Users>().is_err(), "{bad}");
        }
    }
}
