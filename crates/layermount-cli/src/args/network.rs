//! The program's network, its names, and what it is given to listen at: `--network`, `-p`, `--dns`, `--add-host`, `--listen`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use layermount::Publish;

use super::listen::Listen;

const LISTEN_HELP: &str = "Open a socket and pass it to the program as systemd does (LISTEN_FDS): \
unix:PATH[,mode=0660][,user=U][,group=G], tcp:[ADDRESS]:PORT or udp:[ADDRESS]:PORT, where no ADDRESS is all of them; ,name=NAME \
behind any of them is what LISTEN_FDNAMES says";

#[derive(Debug, Default, Args)]
pub(crate) struct NetworkArgs {
    /// The network: host (the default), none, pasta[:OPTION,...], ns:PATH or container:PID
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub(crate) network: Option<NetworkMode>,

    /// Let a port of the host lead to one inside, such as 8080:80; the network is pasta's then
    #[arg(short, long, value_name = "[IP:]HOST:PORT[/udp]")]
    pub(crate) publish: Vec<Publish>,

    /// Ask this name server instead of the host's
    #[arg(long, value_name = "IP", value_parser = address)]
    pub(crate) dns: Vec<IpAddr>,

    /// Search names in this domain instead of the host's; . is none
    #[arg(long, value_name = "DOMAIN", value_parser = word)]
    pub(crate) dns_search: Vec<String>,

    /// An option of resolv.conf, such as ndots:2, instead of the host's
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = word)]
    pub(crate) dns_option: Vec<String>,

    /// Add a name to /etc/hosts
    #[arg(long, value_name = "NAME:IP")]
    pub(crate) add_host: Vec<HostEntry>,

    // Not a comment of documentation, where brackets are links.
    #[arg(long, value_name = "SOCKET", help = LISTEN_HELP)]
    pub(crate) listen: Vec<Listen>,

    /// Pass N open descriptors on to the program, from 3 up (behind those of LISTEN_FDS)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) preserve_fds: Option<u16>,
}

/// Whose network the program sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    Host,
    None,
    Namespace(PathBuf),
    OfProcess(u32),
    /// With options of pasta's own.
    Pasta(Vec<String>),
}

impl FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mode, value) = text.split_once(':').map_or((text, None), |(mode, value)| (mode, Some(value)));
        match (mode, value) {
            ("host", None) => Ok(Self::Host),
            ("none", None) => Ok(Self::None),
            ("ns", Some(path)) if !path.is_empty() => Ok(Self::Namespace(path.into())),
            ("ns", _) => Err("a namespace is ns:PATH, such as ns:/run/netns/NAME".into()),
            ("container", Some(pid)) => pid.parse().map(Self::OfProcess).map_err(|_| {
                "layermount's programs have no names: write container:PID, with the number of a process".into()
            }),
            ("pasta", None) => Ok(Self::Pasta(Vec::new())),
            ("pasta", Some(options)) => {
                Ok(Self::Pasta(options.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()))
            }
            ("bridge" | "default" | "private" | "slirp4netns", _) => {
                Err("there is no bridge: pasta takes its place (--network pasta, or -p HOST:PORT alone)".into())
            }
            _ => {
                Err("there are host, none, pasta, ns:PATH and container:PID; networks with names would be a daemon's, \
                      pasta takes their place"
                    .into())
            }
        }
    }
}

/// `--add-host NAME:IP`, or `NAME=IP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEntry {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
}

impl FromStr for HostEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, ip) = text.split_once(['=', ':']).ok_or("a host is NAME:IP, such as db:10.0.0.5")?;
        if ip == "host-gateway" {
            return Err("host-gateway is no address here: in the host's network the host is localhost, and pasta's has none for it; \
                        name one of the host's addresses"
                .into());
        }
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        Ok(Self { name: word(name)?, address: address(bare)? })
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// What stays one word in the files that it goes into.
fn word(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_word { Ok(text.to_owned()) } else { Err(format!("{text:?} is not one word of printable characters")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let mode = |text: &str| text.parse::<NetworkMode>();
        assert_eq!(mode("host"), Ok(NetworkMode::Host));
        assert_eq!(mode("ns:/run/netns/a:b"), Ok(NetworkMode::Namespace("/run/netns/a:b".into())));
        assert_eq!(mode("container:12"), Ok(NetworkMode::OfProcess(12)));
        assert_eq!(mode("pasta:"), Ok(NetworkMode::Pasta(Vec::new())));
        let options = ["-T", "5201", "--map-gw"].map(str::to_owned).to_vec();
        assert_eq!(mode("pasta:-T,5201,--map-gw"), Ok(NetworkMode::Pasta(options)));
        for bad in ["", "ns", "ns:", "container", "container:", "container:web", "container:-1", "host:x", "web"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        for bridge in ["bridge", "web", "default"] {
            assert!(mode(bridge).unwrap_err().contains("pasta"), "{bridge}");
        }
    }

    #[test]
    fn hosts() {
        let host = |text: &str| text.parse::<HostEntry>();
        let entry = |ip: &str| Ok(HostEntry { name: "db".to_owned(), address: ip.parse().unwrap() });
        assert_eq!(host("db:10.0.0.1"), entry("10.0.0.1"));
        assert_eq!(host("db=10.0.0.1"), entry("10.0.0.1"));
        assert_eq!(host("db:2001:db8::1"), entry("2001:db8::1"));
        assert_eq!(host("db=[::1]"), entry("::1"));
        for bad in [
            "",
            "db",
            "db:",
            ":10.0.0.1",
            "db:x",
            "d b:10.0.0.1",
            "d#:10.0.0.1",
            "db:10.0.0.1\n1.2.3.4 x",
            "db:host-gateway",
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
