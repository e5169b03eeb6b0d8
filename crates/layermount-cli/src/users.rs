//! Which users there are inside: the user namespace that layermount itself moves into when it is not root's.
//!
//! `newuidmap` and `newgidmap` take a while to map ranges. They are started before the image is looked for, and waited for once it
//! is found.

use std::str::FromStr;

use layermount::{Error, ErrorKind, IdMaps, ParseIdMapsError, UserNamespace};

use crate::failure::{Failure, Result};

/// `--userns`. Without it, it is `host` for root and `auto` for everybody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Users {
    /// The host's users.
    Host,
    /// Oneself as root, and the subordinate IDs that one is granted.
    Auto,
    /// As auto, but the program runs as oneself.
    KeepId,
    /// These.
    Map(IdMaps),
}

impl FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("map:")) {
            ("host", _) => Ok(Self::Host),
            ("auto", _) => Ok(Self::Auto),
            ("keep-id", _) => Ok(Self::KeepId),
            (_, Some(maps)) => maps.parse().map(Self::Map).map_err(|error: ParseIdMapsError| error.to_string()),
            _ => Err("write host, auto, keep-id or map:INSIDE:OUTSIDE:COUNT[,...]".into()),
        }
    }
}

/// A user namespace that is being made.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// `None` where this process stays where it is.
    namespace: Option<UserNamespace>,
    origin: Origin,
    purpose: Purpose,
}

/// Where the maps of a namespace come from.
#[derive(Debug)]
enum Origin {
    /// Somebody has written them.
    Asked,
    /// The machine grants them, and may turn out not to.
    Granted,
    /// There is only one user in them, because of this.
    Single(Error),
}

/// What a namespace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Files are read or unpacked: without it, the process does with its own rights.
    Files,
    /// Something is mounted, for which there is no way around it.
    Mount,
    /// The same, for a program that runs as who the caller is outside.
    MountForOneself,
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
    pub(crate) fn begin(users: Option<&Users>) -> Result<Self> {
        let is_root = !UserNamespace::is_needed();
        match (users, is_root) {
            (None | Some(Users::Host), true) => Ok(Self::none()),
            (Some(Users::Host), false) => {
                Err(Failure::new(ErrorKind::PermissionDenied, "only root can run a program with the host's users")
                    .with_hint("leave out --userns, or use --userns auto"))
            }
            (Some(_), true) => Err(Failure::new(
                ErrorKind::Unsupported,
                "root runs programs with the host's users: the owners of the store's layers are not mapped for it",
            )
            .with_hint("leave out --userns, or run layermount as an ordinary user")),
            (Some(Users::Map(maps)), false) => {
                Ok(Self { namespace: Some(UserNamespace::prepare(maps.clone())?), ..Self::none() })
            }
            (None | Some(Users::Auto), false) => Self::granted(Purpose::Mount),
            (Some(Users::KeepId), false) => Self::granted(Purpose::MountForOneself),
        }
    }

    /// For a command that only unpacks or reads: without the namespace it has to do with what its own rights are.
    pub(crate) fn if_possible() -> Result<Self> {
        if UserNamespace::is_needed() { Self::granted(Purpose::Files) } else { Ok(Self::none()) }
    }

    fn none() -> Self {
        Self { namespace: None, origin: Origin::Asked, purpose: Purpose::Mount }
    }

    fn granted(purpose: Purpose) -> Result<Self> {
        let (namespace, origin) = match IdMaps::granted().and_then(UserNamespace::prepare) {
            Ok(namespace) => (namespace, Origin::Granted),
            Err(error) if !is_for_good(&error) => return Err(error.into()),
            Err(error) => (UserNamespace::prepare(IdMaps::single())?, Origin::Single(error)),
        };
        Ok(Self { namespace: Some(namespace), origin, purpose })
    }

    /// The maps that it will have, if all goes well.
    pub(crate) fn maps(&self) -> Option<&IdMaps> {
        self.namespace.as_ref().map(UserNamespace::maps)
    }

    /// Moves this process into it.
    pub(crate) fn enter(self) -> Result<Inside> {
        let Self { namespace, origin, purpose } = self;
        let Some(namespace) = namespace else { return Ok(Inside::default()) };
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let maps = namespace.maps().clone();
        let (maps, single, entered) = match (origin, namespace.enter()) {
            // The helpers say only now that they do not map what is granted.
            (Origin::Granted, Err(error)) if is_for_good(&error) => {
                let maps = IdMaps::single();
                let entered = UserNamespace::prepare(maps.clone()).and_then(UserNamespace::enter);
                (maps, Some(error), entered)
            }
            (Origin::Single(error), entered) => (maps, Some(error), entered),
            (Origin::Asked | Origin::Granted, entered) => (maps, None, entered),
        };
        match (entered, purpose) {
            (Ok(()), Purpose::MountForOneself) => Ok(Inside { single, kept: Some(maps.keeping(uid, gid)) }),
            (Ok(()), _) => Ok(Inside { single, kept: None }),
            (Err(error), Purpose::Files) if is_for_good(&error) => Ok(Inside { single, kept: None }),
            (Err(error), _) => {
                Err(Failure::from(error).with_advice("'layermount doctor' tells what this machine allows"))
            }
        }
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
