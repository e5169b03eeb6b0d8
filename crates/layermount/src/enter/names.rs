//! What `/etc/hosts` and `/etc/resolv.conf` say inside: hosts(5), resolv.conf(5).
//!
//! | the network | `/etc/hosts` | `/etc/resolv.conf` |
//! |---|---|---|
//! | the host's | the host's, names that were added before them | the host's |
//! | a new one, or somebody else's | `localhost`, names that were added | the host's |
//! | pasta's | the same | the address that leads to the host's resolvers, then those that are not at a loopback address |
//!
//! Name servers, domains and options that are given replace the host's, each of them for itself, as in docker.

use std::net::IpAddr;

use super::EnterError;
use crate::network::NetworkView;

/// As docker writes it.
const LOCALHOST: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// What was asked for in addition to the host's, or in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(super) hosts: Vec<(String, IpAddr)>,
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    pub(super) options: Vec<String>,
}

impl Names {
    /// Nothing becomes another line, another word or a comment.
    pub(super) fn check(&self) -> Result<(), EnterError> {
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let names = self.hosts.iter().map(|(name, _)| (name, "/etc/hosts"));
        let words = self.search.iter().chain(&self.options).map(|word| (word, "/etc/resolv.conf"));
        match names.chain(words).find(|(text, _)| !is_word(text)) {
            Some((text, file)) => Err(EnterError::Name { text: text.clone(), file }),
            None => Ok(()),
        }
    }

    /// `host` is the host's file, when its network is the one inside.
    pub(super) fn hosts(&self, host: &[u8], hostname: &str, network: NetworkView) -> Vec<u8> {
        let added: String = self.hosts.iter().map(|(name, address)| format!("{address}\t{name}\n")).collect();
        let host = String::from_utf8_lossy(host);
        let mut text = if network == NetworkView::Host && !host.trim().is_empty() {
            added + &host
        } else {
            LOCALHOST.to_owned() + &added
        };
        let known = text.lines().any(|line| {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().skip(1).any(|name| name == hostname)
        });
        if !known && !hostname.is_empty() {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&format!("127.0.1.1\t{hostname}\n"));
        }
        text.into_bytes()
    }

    /// `host` is the host's file.
    pub(super) fn resolv_conf(&self, host: Vec<u8>, network: NetworkView) -> Vec<u8> {
        let is_hosts = self.servers.is_empty() && self.search.is_empty() && self.options.is_empty();
        if is_hosts && !matches!(network, NetworkView::Forwarded(_)) {
            return host;
        }
        let host = String::from_utf8_lossy(&host);
        let values = |keywords: &[&str]| -> Vec<Vec<&str>> {
            let lines = host.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let of = lines.filter(|words| words.first().is_some_and(|word| keywords.contains(word)));
            of.map(|words| words.into_iter().skip(1).take_while(|word| !word.starts_with(['#', ';'])).collect())
                .collect()
        };
        // Of several the last one counts; of options each.
        let search = given_or(&self.search, || values(&["search", "domain"]).pop().unwrap_or_default());
        let options = given_or(&self.options, || values(&["options"]).concat());
        let hosts_servers = || values(&["nameserver"]).into_iter().filter_map(|words| words.first().copied());
        let servers: Vec<String> = match network {
            _ if !self.servers.is_empty() => self.servers.iter().map(ToString::to_string).collect(),
            NetworkView::Forwarded(resolver) => forwarded(resolver, hosts_servers()),
            _ => hosts_servers().map(str::to_owned).collect(),
        };
        let mut text = String::new();
        if !search.is_empty() && search != ["."] {
            text += &format!("search {}\n", search.join(" "));
        }
        text.extend(servers.iter().map(|server| format!("nameserver {server}\n")));
        if !options.is_empty() {
            text += &format!("options {}\n", options.join(" "));
        }
        text.into_bytes()
    }
}

fn given_or<'a>(given: &'a [String], host: impl FnOnce() -> Vec<&'a str>) -> Vec<&'a str> {
    if given.is_empty() { host() } else { given.iter().map(String::as_str).collect() }
}

/// pasta leads the address to the first of the host's resolvers that is of the same family, also to one at a loopback address; but
/// (in 2023) datagrams only. For the rest there are those that can be reached as they are.
fn forwarded<'a>(resolver: IpAddr, host: impl Iterator<Item = &'a str>) -> Vec<String> {
    let (mut servers, mut leads_somewhere) = (Vec::new(), false);
    for server in host {
        // An IPv6 address may have a zone behind it.
        let Some(address) = server.split('%').next().and_then(|address| address.parse::<IpAddr>().ok()) else {
            continue;
        };
        leads_somewhere |= address.is_ipv4() == resolver.is_ipv4();
        if !address.is_loopback() && !address.is_unspecified() {
            servers.push(server.to_owned());
        }
    }
    if leads_somewhere {
        servers.insert(0, resolver.to_string());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &Names, host: &str, network: NetworkView) -> String {
        String::from_utf8(names.hosts(host.as_bytes(), "abc", network)).unwrap()
    }

    #[test]
    fn hosts_know_the_hostname_once() {
        let text = |host: &str| hosts(&Names::default(), host, NetworkView::Host);
        assert!(text("").contains("localhost") && text("").ends_with("127.0.1.1\tabc\n"));
        assert_eq!(text("1.2.3.4 abc"), "1.2.3.4 abc");
        assert_eq!(text("1.2.3.4 x # abc"), "1.2.3.4 x # abc\n127.0.1.1\tabc\n");
        let unnamed = Names::default().hosts(b"::1 l\n", "", NetworkView::Host);
        assert_eq!(String::from_utf8(unnamed).unwrap(), "::1 l\n");
    }

    #[test]
    fn added_names_come_before_the_hosts_and_other_networks_have_none_of_those() {
        let names = Names { hosts: vec![("db".to_owned(), "10.0.0.1".parse().unwrap())], ..Names::default() };
        let text = hosts(&names, "1.2.3.4 db abc\n", NetworkView::Host);
        assert_eq!(text, "10.0.0.1\tdb\n1.2.3.4 db abc\n");
        let text = hosts(&names, "1.2.3.4 other\n", NetworkView::Other);
        assert_eq!(text, format!("{LOCALHOST}10.0.0.1\tdb\n127.0.1.1\tabc\n"));
    }

    #[test]
    fn what_would_be_another_line_is_refused() {
        for bad in ["", "a b", "a\n1.2.3.4 b", "a#", "\t"] {
            let name = Names { hosts: vec![(bad.to_owned(), "1.2.3.4".parse().unwrap())], ..Names::default() };
            assert!(name.check().is_err(), "{bad:?}");
            let search = Names { search: vec![bad.to_owned()], ..Names::default() };
            assert!(search.check().is_err(), "{bad:?}");
            let option = Names { options: vec![bad.to_owned()], ..Names::default() };
            assert!(option.check().is_err(), "{bad:?}");
        }
    }

    const HOST: &str = "# comment\ndomain old\nsearch a.example b.example # both\nnameserver 127.0.0.53\nnameserver 10.0.0.53\n\
                        nameserver fe80::1%eth0\noptions edns0 trust-ad\noptions ndots:1\n";

    fn resolv_conf(names: &Names, network: NetworkView) -> String {
        String::from_utf8(names.resolv_conf(HOST.as_bytes().to_vec(), network)).unwrap()
    }

    #[test]
    fn what_is_given_replaces_only_its_like() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let none = Names::default();
        assert_eq!(resolv_conf(&none, NetworkView::Host), HOST);
        assert_eq!(resolv_conf(&none, NetworkView::Other), HOST);
        let servers = Names { servers: vec!["1.2.3.4".parse().unwrap()], ..Names::default() };
        let expected = "search a.example b.example\nnameserver 1.2.3.4\noptions edns0 trust-ad ndots:1\n";
        assert_eq!(resolv_conf(&servers, NetworkView::Host), expected);
        let hosts_servers = "nameserver 127.0.0.53\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n";
        let no_search = Names { search: words(&["."]), options: words(&["ndots:3", "rotate"]), ..Names::default() };
        assert_eq!(resolv_conf(&no_search, NetworkView::Host), format!("{hosts_servers}options ndots:3 rotate\n"));
    }

    #[test]
    fn loopback_resolvers_are_reached_through_pasta() {
        let forwarded = NetworkView::Forwarded("169.254.1.1".parse().unwrap());
        let expected = "search a.example b.example\nnameserver 169.254.1.1\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n\
                        options edns0 trust-ad ndots:1\n";
        assert_eq!(resolv_conf(&Names::default(), forwarded), expected);
        let of = |host: &str| Names::default().resolv_conf(host.as_bytes().to_vec(), forwarded);
        assert_eq!(of("nameserver 127.0.0.1\n"), b"nameserver 169.254.1.1\n");
        assert_eq!(of("nameserver ::1\nnameserver 2001:db8::1\n"), b"nameserver 2001:db8::1\n");
        assert_eq!(of(""), b"");
    }
}
