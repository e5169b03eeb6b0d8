//! `--listen`: a socket as it is written.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A socket that is opened for the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// As it was typed, up to the first comma.
    pub(crate) typed: String,
    pub(crate) at: ListenAt,
    /// For `LISTEN_FDNAMES`.
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListenAt {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(UnixSocket),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UnixSocket {
    pub(crate) path: PathBuf,
    pub(crate) mode: Option<u32>,
    /// Names or numbers of the host's.
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split(',');
        let typed = words.next().unwrap_or_default();
        let (kind, place) = typed.split_once(':').unwrap_or(("", typed));
        let mut at = match kind {
            "tcp" => ListenAt::Tcp(address(place)?),
            "udp" => ListenAt::Udp(address(place)?),
            "unix" if !place.is_empty() => ListenAt::Unix(UnixSocket { path: place.into(), ..UnixSocket::default() }),
            _ => return Err("a socket is unix:PATH, tcp:ADDRESS:PORT or udp:ADDRESS:PORT".into()),
        };
        let mut name = String::new();
        for word in words {
            let (key, value) = word.split_once('=').filter(|(_, value)| !value.is_empty()).unwrap_or((word, ""));
            match (key, value, &mut at) {
                ("name", value, _) if is_name(value) => name = value.to_owned(),
                ("mode", value, ListenAt::Unix(unix)) => unix.mode = Some(mode(value)?),
                ("user", value, ListenAt::Unix(unix)) if !value.is_empty() => unix.user = Some(value.to_owned()),
                ("group", value, ListenAt::Unix(unix)) if !value.is_empty() => unix.group = Some(value.to_owned()),
                ("mode" | "user" | "group", _, ListenAt::Tcp(_) | ListenAt::Udp(_)) => {
                    return Err(format!("{key} is for unix sockets, whose path is a file"));
                }
                _ => {
                    return Err(format!(
                        "{word:?} is none of mode=0660, user=USER, group=GROUP and name=NAME (printable, without a colon)"
                    ));
                }
            }
        }
        Ok(Self { typed: typed.to_owned(), at, name })
    }
}

/// `ADDRESS:PORT`, with IPv6 in brackets; without an address, all of them.
fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{text:?} is not ADDRESS:PORT, such as 127.0.0.1:8080, [::1]:8080 or :8080");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let ip = match address.strip_prefix('[') {
        _ if address.is_empty() => Ipv6Addr::UNSPECIFIED.into(),
        Some(rest) => rest.strip_suffix(']').and_then(|ip| ip.parse().ok()).map(IpAddr::V6).ok_or_else(wrong)?,
        None => address.parse().map(IpAddr::V4).map_err(|_| wrong())?,
    };
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    Ok(SocketAddr::new(ip, port))
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("{text:?} is not a mode such as 0660"))
}

/// sd_listen_fds_with_names(3).
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets() {
        let socket = |text: &str| text.parse::<Listen>();
        let tcp = |text: &str| ListenAt::Tcp(text.parse().unwrap());
        assert_eq!(socket("tcp:127.0.0.1:80").unwrap().at, tcp("127.0.0.1:80"));
        assert_eq!(socket("tcp:[::1]:80").unwrap().at, tcp("[::1]:80"));
        assert_eq!(socket("tcp::80").unwrap().at, tcp("[::]:80"));
        assert_eq!(socket("udp::53").unwrap().at, ListenAt::Udp("[::]:53".parse().unwrap()));
        let unix = socket("unix:/run/x.sock,mode=0660,user=app,group=33,name=web").unwrap();
        assert_eq!((unix.typed.as_str(), unix.name.as_str()), ("unix:/run/x.sock", "web"));
        let (user, group) = (Some("app".to_owned()), Some("33".to_owned()));
        assert_eq!(unix.at, ListenAt::Unix(UnixSocket { path: "/run/x.sock".into(), mode: Some(0o660), user, group }));
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        for bad in [
            "",
            "unix:",
            "unix",
            "/run/x.sock",
            "tcp:80",
            "tcp:",
            "tcp:localhost:80",
            "tcp:::1:80",
            "tcp:[127.0.0.1]:80",
            "tcp::0",
            "tcp::65536",
            "tcp::80,mode=0660",
            "unix:/x,mode=888",
            "unix:/x,mode=1777",
            "unix:/x,mode=",
            "unix:/x,mode",
            "unix:/x,user=",
            "unix:/x,x=y",
            "unix:/x,",
            "tcp::80,name=",
            "tcp::80,name=a:b",
            "sctp::80",
        ] {
            assert!(bad.parse::<Listen>().is_err(), "{bad:?}");
        }
    }
}
