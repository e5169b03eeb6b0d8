//! What is allowed when nothing else is asked for.

use nix::libc;

use super::Action;
use super::abi::Abi;
use super::assemble::{Rules, Treatment};
use super::calls::{CALLS, number_of};
use super::condition::{Condition, Rule, Test};
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
    /// All requests but those that type for whoever sits at the terminal.
    Ioctl,
    /// A few execution domains.
    Personality,
    /// All families but a few.
    Socket,
    /// The same and more of i386, with the family in memory.
    SocketCall,
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
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The kernel's cryptography, and the way to the hypervisor, which no namespace divides; and what hardly anybody has used for a long
/// time, but can still have the kernel load a module: DECnet, Econet, ATM, IrDA, WANPIPE, ISDN, CAIF. As moby's profile of 2026.
const REFUSED_FAMILIES: &[u32] = &[libc::AF_ALG as u32, libc::AF_VSOCK as u32, 12, 19, 20, 23, 25, 34, 37];

/// As mknod(2) takes them: null, zero, full, random, urandom, tty, console, ptmx, and the number of overlayfs's whiteouts.
const DEVICES: &[u32] = &[0x103, 0x105, 0x107, 0x108, 0x109, 0x500, 0x501, 0x502, 0];

/// What is no device. The first means a regular file.
const OTHER_FILES: &[u32] = &[0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK];

/// `TIOCSTI` and `TIOCLINUX`: a program that is started from a shell has the shell's terminal, and could leave commands there for
/// when it has ended (CVE-2017-5226 of Flatpak). The kernel takes the lower half of the register (CVE-2019-10063).
const TERMINAL_INPUT: &[u32] = &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

/// `SYS_SOCKET` of socketcall(2): `include/uapi/linux/net.h`.
const MAKE_SOCKET: &[u32] = &[1];

/// Whether a program may ask for sockets in the old way of i386, where a filter cannot see of which family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldSockets {
    Allowed,
    Refused,
    /// With everything else that `socketcall` does.
    RefusedWithAll,
}

/// The table of calls as rules.
pub(super) fn rules(capabilities: Capabilities, old_sockets: OldSockets) -> Rules {
    let calls = |abi: Abi| {
        let treated =
            CALLS.iter().filter_map(|call| Some((number_of(call, abi)?, call.4.treatment(capabilities, old_sockets))));
        (abi, treated.collect())
    };
    let calls = Abi::HERE.iter().map(|abi| calls(*abi)).collect();
    Rules { calls, otherwise: Action::REFUSE, foreign: Action::UNKNOWN, flags: 0 }
}

impl Access {
    fn treatment(self, capabilities: Capabilities, old_sockets: OldSockets) -> Treatment {
        let is_admin = capabilities.contains(Capabilities::SYS_ADMIN);
        let if_allowed = |allowed: bool| Treatment::Always(if allowed { Action::ALLOW } else { Action::REFUSE });
        match self {
            Self::Always => if_allowed(true),
            Self::Never => if_allowed(false),
            Self::With(any) => if_allowed(capabilities.intersects(any)),
            Self::Clone | Self::Clone3 if is_admin => if_allowed(true),
            Self::Clone => {
                Treatment::Depends(vec![rule(Action::ALLOW, [first(Test::Masked { mask: NAMESPACES, value: 0 })])])
            }
            Self::Clone3 => Treatment::Always(Action::UNKNOWN),
            Self::Mknod(mode) => Treatment::Depends(node_rules(mode)),
            Self::Ioctl if is_admin => if_allowed(true),
            Self::Ioctl => {
                let request = Condition { argument: 1, test: one_of(TERMINAL_INPUT) };
                Treatment::Depends(vec![rule(Action::REFUSE, [request]), rule(Action::ALLOW, [])])
            }
            Self::Personality => Treatment::Depends(vec![rule(Action::ALLOW, [first(one_of(PERSONALITIES))])]),
            Self::Socket => Treatment::Depends(all_but(Action::REFUSE, REFUSED_FAMILIES)),
            Self::SocketCall if old_sockets == OldSockets::Allowed => if_allowed(true),
            Self::SocketCall if old_sockets == OldSockets::RefusedWithAll => Treatment::Always(Action::UNKNOWN),
            Self::SocketCall => Treatment::Depends(all_but(Action::UNKNOWN, MAKE_SOCKET)),
        }
    }
}

/// Where no cgroup says which devices can be opened, there must not be nodes of others.
fn node_rules(mode: u32) -> Vec<Rule> {
    let is = |values| Condition { argument: mode, test: Test::OneOf { mask: libc::S_IFMT, values } };
    let device = Condition { argument: mode + 1, test: one_of(DEVICES) };
    vec![rule(Action::ALLOW, [is(OTHER_FILES)]), rule(Action::ALLOW, [is(&[libc::S_IFCHR]), device])]
}

fn all_but(refused: Action, values: &'static [u32]) -> Vec<Rule> {
    vec![rule(refused, [first(one_of(values))]), rule(Action::ALLOW, [])]
}

fn rule<const N: usize>(action: Action, conditions: [Condition; N]) -> Rule {
    Rule { conditions: conditions.to_vec(), action }
}

const fn one_of(values: &'static [u32]) -> Test {
    Test::OneOf { mask: u32::MAX, values }
}

/// Of the first argument.
const fn first(test: Test) -> Condition {
    Condition { argument: 0, test }
}

#[cfg(test)]
mod tests {
    use super::super::assemble::tests::answer_to;
    use super::super::number;
    use super::*;

    fn answer(capabilities: Capabilities, name: &str, first: u64) -> Action {
        let filter = rules(capabilities, OldSockets::Refused).assemble().unwrap();
        let own = Abi::HERE[0];
        answer_to(&filter, own.audit_number(), number(own, name).unwrap(), [first, 0, 0, 0, 0, 0])
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
    fn the_default_is_short() {
        // The kernel checks and translates each instruction when a program starts: 0.2 us for each.
        let filter = rules(Capabilities::CONTAINER, OldSockets::Refused).assemble().unwrap();
        assert!(filter.program.len() < 300, "{} instructions", filter.program.len());
    }
}
