//! [`Pasta`]: how pasta(1) is to connect a network.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::NetworkError;
use super::publish::{Protocol, Publish};
use crate::caller::Caller;
use crate::error::SyscallContext;

/// The host's resolver, as seen from inside: an address of the link itself, which no other machine has (RFC 3927). podman's is the same.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));

/// How pasta connects a program to the host's network: with the host's own addresses and routes, and the ports that are published.
/// Plain data.
///
/// Unlike pasta alone, and like podman, it lets nobody inside reach what listens at the host's loopback addresses: neither by the
/// gateway's address (`--no-map-gw`) nor by that of `lo` inside (`-T none -U none`).
///
/// For root, pasta runs as root with no capabilities but `CAP_NET_BIND_SERVICE` and `CAP_SYS_ADMIN`, in an empty tree and with a
/// system call filter of its own; for others, as themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pasta {
    published: Vec<Publish>,
    options: Vec<String>,
}

/// What would take pasta's place in this from the library.
const OURS: [&str; 12] = [
    "--netns",
    "--userns",
    "--netns-only",
    "-f",
    "--foreground",
    "-P",
    "--pid",
    "-h",
    "--help",
    "--version",
    "-l",
    "--log-file",
];

impl Pasta {
    /// No ports published.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes a port.
    #[must_use]
    pub fn publish(mut self, publish: Publish) -> Self {
        self.published.push(publish);
        self
    }

    /// Adds a word to pasta's command line, an option or an option's value: pasta(1). What is said there takes the place of the
    /// library's defaults: `-T`, `-U`, `-t`, `-u`, `--dns-forward`, `--runas` and, as podman has it, `--map-gw`.
    #[must_use]
    pub fn option(mut self, word: impl Into<String>) -> Self {
        self.options.push(word.into());
        self
    }

    /// The address inside that leads to the host's resolvers.
    pub(super) fn resolver(&self) -> IpAddr {
        let position = self.options.iter().position(|word| word == "--dns-forward");
        position.and_then(|at| self.options.get(at + 1)?.parse().ok()).unwrap_or(RESOLVER)
    }

    /// The program, when it is there and can be expected to do its work.
    pub(super) fn check(&self) -> Result<PathBuf, NetworkError> {
        for word in &self.options {
            let name = word.split('=').next().unwrap_or_default();
            let why = match name {
                name if OURS.contains(&name) => "layermount says that itself",
                _ if word.contains('\0') => "it has a zero byte",
                _ => continue,
            };
            return Err(NetworkError::Option { option: word.clone(), why });
        }
        let program = find("pasta").ok_or(NetworkError::NoPasta)?;
        let tun = "/dev/net/tun";
        rustix::fs::access(tun, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK)
            .syscall("access", || format!("{tun:?}, R_OK|W_OK"))
            .map_err(NetworkError::Tun)?;
        self.published.iter().try_for_each(Publish::check)?;
        Ok(program)
    }

    /// pasta's command line, up to the path of the namespace.
    pub(super) fn arguments(&self) -> Result<Vec<CString>, NetworkError> {
        let says = |names: &[&str]| {
            let is_one = |word: &String| names.iter().any(|name| word == name || word.starts_with(&format!("{name}=")));
            self.options.iter().any(is_one)
        };
        let mut words = vec!["pasta".to_owned(), "--config-net".to_owned(), "--quiet".to_owned()];
        let mut push = |option: &str, value: &str| words.extend([option, value].map(str::to_owned));
        for (protocol, option, names) in
            [(Protocol::Tcp, "-t", ["-t", "--tcp-ports"]), (Protocol::Udp, "-u", ["-u", "--udp-ports"])]
        {
            let mut published = self.published.iter().filter(|publish| publish.protocol() == protocol).peekable();
            if published.peek().is_none() && !says(&names) {
                push(option, "none");
            }
            published.for_each(|publish| push(option, &publish.for_pasta()));
        }
        if !says(&["-T", "--tcp-ns"]) {
            push("-T", "none");
        }
        if !says(&["-U", "--udp-ns"]) {
            push("-U", "none");
        }
        if !says(&["--dns-forward"]) {
            push("--dns-forward", &RESOLVER.to_string());
        }
        // As nobody, which it becomes otherwise, it could not join what root has made.
        if Caller::is_root_of_the_machine() && !says(&["--runas"]) {
            push("--runas", "0:0");
        }
        if !says(&["--map-gw", "--no-map-gw"]) {
            words.push("--no-map-gw".to_owned());
        }
        // It is pasta's default, under a name that only podman knows.
        words.extend(self.options.iter().filter(|word| *word != "--map-gw").cloned());
        words.push("--netns".to_owned());
        let terminated = |word: String| {
            CString::new(word)
                .map_err(|word| NetworkError::Option { option: format!("{word:?}"), why: "it has a zero byte" })
        };
        words.into_iter().map(terminated).collect()
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let absolute = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    absolute.map(|directory| directory.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    rustix::fs::access(file.as_os_str().as_bytes(), rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pasta: &Pasta) -> String {
        let words = pasta.arguments().unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ").replace(" --runas 0:0", "")
    }

    #[test]
    fn the_host_is_out_of_reach_unless_somebody_says_otherwise() {
        assert_eq!(
            line(&Pasta::new()),
            "pasta --config-net --quiet -t none -u none -T none -U none --dns-forward 169.254.1.1 --no-map-gw --netns"
        );
        let pasta = Pasta::new().publish("127.0.0.1:8080:80".parse().unwrap()).publish("53:53/udp".parse().unwrap());
        assert!(line(&pasta).contains("-t 127.0.0.1/8080:80 -u 53:53 -T none -U none"), "{}", line(&pasta));
        let pasta =
            ["-T", "5201", "--map-gw", "--dns-forward", "10.9.9.9"].into_iter().fold(Pasta::new(), Pasta::option);
        assert_eq!(
            line(&pasta),
            "pasta --config-net --quiet -t none -u none -U none -T 5201 --dns-forward 10.9.9.9 --netns"
        );
        assert_eq!(pasta.resolver().to_string(), "10.9.9.9");
    }

    #[test]
    fn what_the_library_says_itself_is_refused() {
        for bad in ["--netns", "--netns=/x", "-f", "--pid=x", "a\0"] {
            assert!(matches!(Pasta::new().option(bad).check(), Err(NetworkError::Option { .. })), "{bad:?}");
        }
    }
}
