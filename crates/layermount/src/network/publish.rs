//! [`Publish`]: a port of the host that leads to one inside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use rustix::io::Errno;

use super::error::NetworkError;
use crate::error::{ErrorKind, Fault, SyscallContext, SyscallError};

/// What is sent to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Ports of the host, and those inside that they lead to.
///
/// Written as docker has it: `[IP:]HOST:INSIDE[/tcp|/udp]`, such as `8080:80`, `127.0.0.1:53:53/udp`, `[::1]:8000-8010:80-90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    address: Option<IpAddr>,
    host: u16,
    inside: u16,
    /// How many more there are of each.
    more: u16,
    protocol: Protocol,
}

impl Publish {
    /// A port at all addresses of the host.
    pub fn new(protocol: Protocol, host: u16, inside: u16) -> Self {
        Self { address: None, host, inside, more: 0, protocol }
    }

    /// At this address alone.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// As pasta(1) has it after `-t` and `-u`.
    pub(super) fn for_pasta(&self) -> String {
        let address = self.address.map(|address| format!("{address}/")).unwrap_or_default();
        let ports = |first: u16| match self.more {
            0 => first.to_string(),
            more => format!("{first}-{}", first + more),
        };
        format!("{address}{}:{}", ports(self.host), ports(self.inside))
    }

    /// Takes each port for a moment: pasta of 2023 says nothing as long as one of a range is free.
    pub(super) fn check(&self) -> Result<(), NetworkError> {
        (self.host..=self.host + self.more).try_for_each(|port| {
            self.try_port(port).map_err(|cause| NetworkError::Port { port, publish: *self, cause })
        })
    }

    fn try_port(&self, port: u16) -> Result<(), SyscallError> {
        let bind = |address: IpAddr| match self.protocol {
            Protocol::Tcp => TcpListener::bind(SocketAddr::new(address, port)).map(drop),
            Protocol::Udp => UdpSocket::bind(SocketAddr::new(address, port)).map(drop),
        };
        let address = self.address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        match bind(address).syscall("bind", || format!("{}", SocketAddr::new(address, port))) {
            // A machine without IPv6.
            Err(error)
                if self.address.is_none() && matches!(error.errno(), Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) =>
            {
                let address = Ipv4Addr::UNSPECIFIED;
                bind(address.into()).syscall("bind", || format!("{address}:{port}"))
            }
            bound => bound,
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(address) => write!(f, "{address}:")?,
            None => {}
        }
        match self.more {
            0 => write!(f, "{}:{}", self.host, self.inside)?,
            more => write!(f, "{}-{}:{}-{}", self.host, self.host + more, self.inside, self.inside + more)?,
        }
        f.write_str(if self.protocol == Protocol::Tcp { "/tcp" } else { "/udp" })
    }
}

/// Not a port to be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a published port is [IP:]HOSTPORT:PORT[/tcp|/udp], such as 8080:80: {why}")]
pub struct ParsePublishError {
    why: &'static str,
}

impl Fault for ParsePublishError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

impl FromStr for Publish {
    type Err = ParsePublishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| ParsePublishError { why };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, protocol)) => match protocol.to_ascii_lowercase().as_str() {
                "tcp" => (ports, Protocol::Tcp),
                "udp" => (ports, Protocol::Udp),
                _ => return Err(wrong("there are tcp and udp")),
            },
        };
        let (address, ports) = match ports.strip_prefix('[') {
            None => match ports.splitn(3, ':').collect::<Vec<_>>()[..] {
                [address, host, inside] if !inside.contains(':') => (Some(address), (host, inside)),
                [host, inside] => (None, (host, inside)),
                [_] => return Err(wrong("which port of the host? None is chosen at random")),
                _ => return Err(wrong("an IPv6 address stands in brackets")),
            },
            Some(rest) => {
                let (address, ports) = rest.split_once("]:").ok_or(wrong("a bracket is not closed"))?;
                (Some(address), ports.split_once(':').ok_or(wrong("which port of the host?"))?)
            }
        };
        let address = match address {
            None | Some("") => None,
            Some(address) => Some(address.parse().map_err(|_| wrong("that is no IP address"))?),
        };
        if ports.0.is_empty() {
            return Err(wrong("which port of the host? None is chosen at random"));
        }
        let bad = wrong("a port is a number from 1 to 65535, or a range of such");
        let (host, more) = range(ports.0).ok_or(bad.clone())?;
        let (inside, more_inside) = range(ports.1).ok_or(bad)?;
        if more != more_inside {
            return Err(wrong("the ranges differ in length"));
        }
        Ok(Self { address, host, inside, more, protocol })
    }
}

/// The first, and how many more.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| digits && *number > 0)
    };
    match text.split_once('-') {
        None => Some((number(text)?, 0)),
        Some((first, last)) => {
            let first = number(first)?;
            Some((first, number(last)?.checked_sub(first)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_docker_has_them() {
        for (text, shown, pasta) in [
            ("8080:80", "8080:80/tcp", "8080:80"),
            ("8080:80/TCP", "8080:80/tcp", "8080:80"),
            (":8080:80", "8080:80/tcp", "8080:80"),
            ("127.0.0.1:53:53/udp", "127.0.0.1:53:53/udp", "127.0.0.1/53:53"),
            ("[::1]:8000-8010:80-90", "[::1]:8000-8010:80-90/tcp", "::1/8000-8010:80-90"),
            ("65535:1", "65535:1/tcp", "65535:1"),
            ("1-65535:1-65535", "1-65535:1-65535/tcp", "1-65535:1-65535"),
        ] {
            let publish: Publish = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((publish.to_string().as_str(), publish.for_pasta().as_str()), (shown, pasta), "{text}");
            assert_eq!(shown.parse(), Ok(publish));
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in [
            "",
            "80",
            "80/udp",
            ":80",
            "::80",
            "127.0.0.1::80",
            "0:80",
            "80:0",
            "65536:1",
            "1:65536",
            "a:b",
            "+1:2",
            "1:2/sctp",
            "1:2/",
            "1-2:1",
            "2-1:2-1",
            "1-:1-",
            "::1:80:80",
            "[::1:80:80",
            "[::1]80:80",
            "[::1]:80",
            "1.2.3:80:80",
            "1:2:3:4",
            " 80:80",
            "localhost:80:80",
        ] {
            assert!(bad.parse::<Publish>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        for address in ["", "127.0.0.1:"] {
            let publish: Publish = format!("{address}{port}:80").parse().unwrap();
            let error = crate::Error::from(publish.check().unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Busy);
            assert!(error.to_string().contains(&format!("port {port} ")), "{error}");
        }
        let other: Publish = format!("{port}:80/udp").parse().unwrap();
        other.check().unwrap();
        let foreign: Publish = "203.0.113.99:18080:80".parse().unwrap();
        assert_eq!(foreign.check().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
