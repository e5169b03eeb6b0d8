//! What is allowed when nothing else is asked for.

use nix::libc;

use super::assemble::{Condition, Rule, Rules, Test, Treatment};
use super::calls::CALLS;
use super::{Action, number_here};
use crate::capabilities::Capabilities;

/// Who may use a system call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    Always,
    Never,
    /// Who has any of these.
    With(Capabilities),
    /// New namespaces take `CAP_SYS_ADMIN`.
    Clone,
    /// The arguments are in memory, where a filter cannot look.
    Clone3,
    /// Files that are no devices, and nodes of devices that every program has. The number is that of the argument with the mode.
    Mknod(u32),
    /// A few execution domains.
    Personality,
    /// All families but two.
    Socket,
}

/// `CLONE_NEW*`, as far as clone(2) knows them.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// `PER_LINUX` and `PER_LINUX32`, each also with `UNAME26`; and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The kernel's cryptography, and the way to the hypervisor, which no namespace divides.
const REFUSED_FAMILIES: [u64; 2] = [libc::AF_ALG as u64, libc::AF_VSOCK as u64];

/// As mknod(2) takes them: null, zero, full, random, urandom, tty, console, ptmx, and the number of overlayfs's whiteouts.
const DEVICES: [u64; 9] = [0x103, 0x105, 0x107, 0x108, 0x109, 0x500, 0x501, 0x502, 0];

/// What is no device. The first means a regular file.
const OTHER_FILES: [u64; 4] = [0, libc::S_IFREG as u64, libc::S_IFIFO as u64, libc::S_IFSOCK as u64];

/// The table of calls as rules.
pub(super) fn rules(capabilities: Capabilities) -> Rules {
    let calls = CALLS
        .iter()
        .filter_map(|(_, x86_64, newer, access)| Some((number_here(*x86_64, *newer)?, access.treatment(capabilities))));
    Rules { calls: calls.collect(), otherwise: Action::REFUSE, flags: 0 }
}

impl Access {
    fn treatment(self, capabilities: Capabilities) -> Treatment {
        let is_admin = capabilities.contains(Capabilities::SYS_ADMIN);
        let if_allowed = |allowed: bool| Treatment::Always(if allowed { Action::ALLOW } else { Action::REFUSE });
        match self {
            Self::Always => if_allowed(true),
            Self::Never => if_allowed(false),
            Self::With(any) => if_allowed(capabilities.intersects(any)),
            Self::Clone | Self::Clone3 if is_admin => if_allowed(true),
            Self::Clone => Treatment::Depends(vec![allow_if(Test::Masked { mask: NAMESPACES, value: 0 })]),
            Self::Clone3 => Treatment::Always(Action::UNKNOWN),
            Self::Mknod(mode) => Treatment::Depends(node_rules(mode)),
            Self::Personality => Treatment::Depends(PERSONALITIES.map(|value| allow_if(Test::Equal(value))).to_vec()),
            Self::Socket => {
                let refuse =
                    |family| Rule { action: Action::REFUSE, ..allow_if(Test::Masked { mask: LOWER, value: family }) };
                let mut rules = REFUSED_FAMILIES.map(refuse).to_vec();
                rules.push(Rule { conditions: Vec::new(), action: Action::ALLOW });
                Treatment::Depends(rules)
            }
        }
    }
}

/// The kernel takes a family for an int, whatever the upper half of the register says.
const LOWER: u64 = 0xffff_ffff;

/// Where no cgroup says which devices can be opened, there must not be nodes of others.
fn node_rules(mode: u32) -> Vec<Rule> {
    let is = |kind| Condition { argument: mode, test: Test::Masked { mask: u64::from(libc::S_IFMT), value: kind } };
    let device = |number| Condition { argument: mode + 1, test: Test::Masked { mask: LOWER, value: number } };
    let others = OTHER_FILES.map(|kind| vec![is(kind)]);
    let devices = DEVICES.map(|number| vec![is(u64::from(libc::S_IFCHR)), device(number)]);
    let allowed = others.into_iter().chain(devices);
    allowed.map(|conditions| Rule { conditions, action: Action::ALLOW }).collect()
}

/// Of the first argument.
fn allow_if(test: Test) -> Rule {
    Rule { conditions: vec![Condition { argument: 0, test }], action: Action::ALLOW }
}

#[cfg(test)]
mod tests {
    use super::super::assemble::ARCHITECTURE;
    use super::super::assemble::tests::answer_to;
    use super::super::number;
    use super::*;

    fn answer(capabilities: Capabilities, name: &str, first: u64) -> Action {
        let filter = rules(capabilities).assemble().unwrap();
        answer_to(&filter, ARCHITECTURE.unwrap(), number(name).unwrap(), [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn calls_depend_on_capabilities_and_arguments() {
        const PLAIN: Capabilities = Capabilities::CONTAINER;
        for allowed in ["read", "openat", "execve", "capset", "prctl", "setresuid", "ptrace", "chroot", "statx", "rseq"]
        {
            assert_eq!(answer(PLAIN, allowed, 0), Action::ALLOW, "{allowed}");
        }
        for refused in ["mount", "unshare", "keyctl", "bpf", "io_uring_setup", "reboot", "init_module", "swapon"] {
            assert_eq!(answer(PLAIN, refused, 0), Action::REFUSE, "{refused}");
        }
        let admin = PLAIN | Capabilities::SYS_ADMIN;
        for allowed in ["mount", "unshare", "bpf", "clone3"] {
            assert_eq!(answer(admin, allowed, 0), Action::ALLOW, "{allowed}");
        }
        assert_eq!(answer(Capabilities::ALL, "keyctl", 0), Action::REFUSE);
        assert_eq!(answer(PLAIN | Capabilities::SYS_TIME, "settimeofday", 0), Action::ALLOW);
        assert_eq!(answer(PLAIN | Capabilities::BPF, "bpf", 0), Action::ALLOW);
        assert_eq!(answer(PLAIN, "clone3", 0), Action::UNKNOWN);
        assert_eq!(answer(PLAIN, "clone", libc::SIGCHLD as u64), Action::ALLOW);
        assert_eq!(answer(PLAIN, "clone", libc::CLONE_NEWUSER as u64), Action::REFUSE);
        assert_eq!(answer(admin, "clone", libc::CLONE_NEWUSER as u64), Action::ALLOW);
        assert_eq!(answer(PLAIN, "personality", 0x8), Action::ALLOW);
        assert_eq!(answer(PLAIN, "personality", 0x4_0000), Action::REFUSE, "ADDR_NO_RANDOMIZE");
        assert_eq!(answer(PLAIN, "socket", libc::AF_INET as u64), Action::ALLOW);
        assert_eq!(answer(PLAIN, "socket", 1 << 32 | libc::AF_VSOCK as u64), Action::REFUSE);
        assert_eq!(answer(PLAIN, "socket", libc::AF_ALG as u64), Action::REFUSE);
    }

    #[test]
    fn assembled_in_no_time() {
        let since = std::time::Instant::now();
        let mut filter = None;
        for _ in 0..100 {
            filter = Some(rules(Capabilities::CONTAINER).assemble().unwrap());
        }
        let each = since.elapsed() / 100;
        eprintln!("{} instructions, {each:?}", filter.unwrap().program.len());
        assert!(each < std::time::Duration::from_millis(20), "{each:?}");
    }
}
