//! Where the Docker Engine listens.
//!
//! In order: an explicit host, `DOCKER_HOST`, `DOCKER_CONTEXT` or the current context of `~/.docker/config.json`, then
//! the first of the usual sockets that exists. Spellings are those of `docker --host`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::Result;

use super::error::DockerError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl FromStr for Endpoint {
    type Err = DockerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |reason| DockerError::Host { host: text.to_owned(), reason };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("unix", _)) => Err(bad("the path of a socket is absolute")),
            Some(("tcp" | "http", authority)) => {
                let authority = authority.trim_end_matches('/');
                let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
                let port = port.parse().map_err(|_| bad("its port is not a number"))?;
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                // `tcp://:2375` means this machine, as it does for docker.
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                match host.contains(['/', '@', '?', '#']) || host.contains(char::is_whitespace) {
                    true => Err(bad("only a host and a port may stand in it")),
                    false => Ok(Self::Tcp { host: host.to_owned(), port }),
                }
            }
            Some(("https", _)) => Err(DockerError::Tls { host: text.to_owned() }),
            Some(("ssh", _)) => Err(bad("ssh is not supported; forward the socket with 'ssh -L'")),
            _ => Err(bad("unix:///path or tcp://host:port is expected")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// What the choice depends on, so that tests need not change this process.
pub(super) struct Surroundings<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) exists: &'a dyn Fn(&Path) -> bool,
    pub(super) read: &'a dyn Fn(&Path) -> Option<Vec<u8>>,
}

impl Surroundings<'static> {
    pub(super) fn real() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok().filter(|value| !value.is_empty()),
            exists: &|path| path.exists(),
            read: &|path| std::fs::read(path).ok(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientConfig {
    current_context: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ContextMeta {
    #[serde(rename = "Endpoints")]
    endpoints: ContextEndpoints,
}

#[derive(Debug, Deserialize)]
struct ContextEndpoints {
    docker: ContextEndpoint,
}

#[derive(Debug, Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host")]
    host: String,
}

impl Endpoint {
    /// The endpoint where no host was given explicitly.
    pub(super) fn find(surroundings: &Surroundings<'_>) -> Result<Self, DockerError> {
        let variable = surroundings.variable;
        if let Some(host) = variable("DOCKER_HOST") {
            // The same variable makes docker speak TLS to the host.
            if variable("DOCKER_TLS_VERIFY").is_some() && !host.starts_with("unix:") {
                return Err(DockerError::Tls { host });
            }
            return host.parse();
        }
        let home = variable("HOME").map(PathBuf::from);
        let docker_config =
            variable("DOCKER_CONFIG").map(PathBuf::from).or(home.as_ref().map(|home| home.join(".docker")));
        if let Some(host) = docker_config.as_deref().and_then(|config| context(surroundings, config)).transpose()? {
            return host.parse();
        }
        let runtime = variable("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("docker.sock"));
        let desktop = home.map(|home| home.join(".docker/run/docker.sock"));
        let usual = [Some("/run/docker.sock".into()), Some("/var/run/docker.sock".into()), runtime, desktop];
        let usual: Vec<PathBuf> = usual.into_iter().flatten().collect();
        match usual.iter().find(|path| (surroundings.exists)(path)) {
            Some(path) => Ok(Self::Unix(path.clone())),
            None => Err(DockerError::NoSocket { tried: usual }),
        }
    }
}

/// The host of the current context; `None` for the default one.
fn context(surroundings: &Surroundings<'_>, docker_config: &Path) -> Option<Result<String, DockerError>> {
    let configured = || {
        let bytes = (surroundings.read)(&docker_config.join("config.json"))?;
        serde_json::from_slice::<ClientConfig>(&bytes).ok()?.current_context
    };
    let name = (surroundings.variable)("DOCKER_CONTEXT").or_else(configured)?;
    if name.is_empty() || name == "default" {
        return None;
    }
    let meta = docker_config.join("contexts/meta").join(Digest::sha256(&name).hex()).join("meta.json");
    let host = (surroundings.read)(&meta)
        .and_then(|bytes| serde_json::from_slice::<ContextMeta>(&bytes).ok())
        .map(|meta| meta.endpoints.docker.host);
    Some(host.ok_or(DockerError::Context { name, meta }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<String, DockerError> {
        let look = |list: &[(&str, &str)], wanted: &str| {
            list.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        let surroundings = Surroundings {
            variable: &|name| look(variables, name),
            exists: &|path| look(files, path.to_str().unwrap()).is_some(),
            read: &|path| look(files, path.to_str().unwrap()).map(String::into_bytes),
        };
        Endpoint::find(&surroundings).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn hosts_are_spelled_as_docker_spells_them() {
        for (typed, printed) in [
            ("unix:///run/docker.sock", "unix:///run/docker.sock"),
            ("tcp://host:2375", "tcp://host:2375"),
            ("tcp://[::1]:2375/", "tcp://[::1]:2375"),
            ("tcp://:2375", "tcp://127.0.0.1:2375"),
        ] {
            assert_eq!(typed.parse::<Endpoint>().unwrap().to_string(), printed);
        }
        for bad in [
            "",
            "host",
            "unix://relative",
            "tcp://host",
            "tcp://host:x",
            "tcp://a/b:1",
            "https://h:1",
            "ssh://h",
            "npipe:////./x",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_order_of_places() {
        let socket = ("/run/docker.sock", "");
        let user = ("/run/user/1/docker.sock", "");
        let runtime = ("XDG_RUNTIME_DIR", "/run/user/1");
        let config = ("/h/.docker/config.json", r#"{"currentContext":"far"}"#);
        let meta_path = format!("/h/.docker/contexts/meta/{}/meta.json", Digest::sha256("far").hex());
        let meta = (
            meta_path.as_str(),
            r#"{"Name":"far","Endpoints":{"docker":{"Host":"tcp://far:1","SkipTLSVerify":false}}}"#,
        );
        let home = ("HOME", "/h");
        assert_eq!(find(&[("DOCKER_HOST", "tcp://a:1"), home], &[socket, config, meta]).unwrap(), "tcp://a:1");
        assert_eq!(find(&[home], &[socket, config, meta]).unwrap(), "tcp://far:1");
        assert_eq!(
            find(&[home, ("DOCKER_CONTEXT", "default")], &[socket, config, meta]).unwrap(),
            "unix:///run/docker.sock"
        );
        assert_eq!(find(&[runtime], &[user]).unwrap(), "unix:///run/user/1/docker.sock");
        assert!(matches!(find(&[home], &[socket, config]), Err(DockerError::Context { .. })));
        assert!(matches!(
            find(&[("DOCKER_HOST", "tcp://a:1"), ("DOCKER_TLS_VERIFY", "1")], &[]),
            Err(DockerError::Tls { .. })
        ));
        assert!(matches!(find(&[home, runtime], &[]), Err(DockerError::NoSocket { tried }) if tried.len() == 4));
    }
}
