//! What a program may do: `--cap-add`, `--cap-drop`, `--privileged`, `--security-opt`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use layermount::Capabilities;

#[derive(Debug, Default, Args)]
pub(crate) struct Security {
    /// Give a capability, such as NET_ADMIN, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<Capabilities>,

    /// Take a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<Capabilities>,

    /// Keep nothing from the program that layermount itself may do
    #[arg(long)]
    pub(crate) privileged: bool,

    /// no-new-privileges, seccomp=FILE|unconfined, unmask=ALL|PATH[:PATH...] or systempaths=unconfined
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub(crate) options: Vec<SecurityOption>,
}

impl Security {
    /// As docker has it, the order of the options does not matter: ALL is a beginning, and what is named counts more.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let named = |sets: &[Capabilities]| {
            let named = sets.iter().filter(|set| **set != Capabilities::ALL);
            named.fold(Capabilities::empty(), |all, set| all | *set)
        };
        let (adds_all, drops_all) =
            (self.cap_add.contains(&Capabilities::ALL), self.cap_drop.contains(&Capabilities::ALL));
        let begin = match (adds_all, drops_all) {
            _ if self.privileged => return Capabilities::ALL,
            (true, _) => return Capabilities::ALL.without(named(&self.cap_drop)),
            (false, true) => Capabilities::empty(),
            (false, false) => Capabilities::CONTAINER.without(named(&self.cap_drop)),
        };
        begin | named(&self.cap_add)
    }
}

/// `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecurityOption {
    NoNewPrivileges(bool),
    Seccomp(PathBuf),
    SeccompUnconfined,
    /// What is so anyway: the default filter, and no other confinement of the kernel's.
    AsIs,
    /// These paths of `/proc` and `/sys`.
    Unmask(Vec<PathBuf>),
    UnmaskAll,
}

impl FromStr for SecurityOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Docker has written some of them with a colon.
        let (name, value) = match text.find(['=', ':']).and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?))) {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        Ok(match (name, value) {
            ("no-new-privileges", None | Some("true")) => Self::NoNewPrivileges(true),
            ("no-new-privileges", Some("false")) => Self::NoNewPrivileges(false),
            ("no-new-privileges", Some(_)) => return Err("no-new-privileges is true or false".into()),
            ("seccomp", Some("unconfined")) => Self::SeccompUnconfined,
            ("seccomp", Some("builtin")) | ("apparmor", Some("unconfined")) | ("label", Some("disable")) => Self::AsIs,
            ("seccomp", Some(file)) if !file.is_empty() => Self::Seccomp(file.into()),
            ("systempaths", Some("unconfined")) => Self::UnmaskAll,
            ("unmask", Some(all)) if all.eq_ignore_ascii_case("all") => Self::UnmaskAll,
            ("unmask", Some(paths)) if paths.split(':').all(|path| path.starts_with('/')) => {
                Self::Unmask(paths.split(':').map(PathBuf::from).collect())
            }
            ("apparmor" | "label", _) => {
                return Err(format!("{name}: there are no such profiles or labels for programs here"));
            }
            _ => {
                return Err(
                    "there are no-new-privileges[=true|false], seccomp=FILE|unconfined, unmask=ALL|PATH[:PATH...] and \
                            systempaths=unconfined"
                        .into(),
                );
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Capabilities {
        let parse = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect();
        Security { cap_add: parse(add), cap_drop: parse(drop), privileged: false, options: Vec::new() }.capabilities()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        assert_eq!(set(&[], &[]), Capabilities::CONTAINER);
        assert_eq!(
            set(&["net_admin"], &["CHOWN"]),
            Capabilities::CONTAINER.without(Capabilities::CHOWN) | Capabilities::NET_ADMIN
        );
        assert_eq!(set(&["ALL"], &["CHOWN"]), Capabilities::ALL.without(Capabilities::CHOWN));
        assert_eq!(set(&["CHOWN", "KILL"], &["ALL"]), Capabilities::CHOWN | Capabilities::KILL);
        assert_eq!(set(&["CHOWN"], &["CHOWN"]), Capabilities::CONTAINER);
        assert_eq!(set(&["ALL", "CHOWN"], &["ALL", "KILL"]), Capabilities::ALL.without(Capabilities::KILL));
    }

    #[test]
    fn security_options() {
        let option = |text: &str| text.parse::<SecurityOption>();
        for on in ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"] {
            assert_eq!(option(on), Ok(SecurityOption::NoNewPrivileges(true)));
        }
        assert_eq!(option("no-new-privileges=false"), Ok(SecurityOption::NoNewPrivileges(false)));
        assert_eq!(option("seccomp=unconfined"), Ok(SecurityOption::SeccompUnconfined));
        assert_eq!(option("seccomp:./a=b"), Ok(SecurityOption::Seccomp("./a=b".into())));
        assert_eq!(option("unmask=all"), Ok(SecurityOption::UnmaskAll));
        assert_eq!(
            option("unmask=/proc/acpi:/sys/firmware"),
            Ok(SecurityOption::Unmask(vec!["/proc/acpi".into(), "/sys/firmware".into()]))
        );
        assert_eq!(option("systempaths=unconfined"), Ok(SecurityOption::UnmaskAll));
        for as_is in ["seccomp=builtin", "apparmor=unconfined", "apparmor:unconfined", "label=disable"] {
            assert_eq!(option(as_is), Ok(SecurityOption::AsIs), "{as_is}");
        }
        for bad in [
            "",
            "no-new-privileges=x",
            "seccomp",
            "seccomp=",
            "unmask=proc",
            "systempaths=x",
            "apparmor=docker-default",
            "label=type:x",
            "x",
        ] {
            assert!(option(bad).is_err(), "{bad}");
        }
    }
}
