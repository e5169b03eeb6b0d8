//! What can go wrong between us and an engine.

use std::io;
use std::path::PathBuf;

use crate::error::{ErrorKind, Fault};

#[derive(Debug, thiserror::Error)]
pub(super) enum DockerError {
    #[error("{host:?} is not a host of a Docker Engine: {reason}")]
    Host { host: String, reason: &'static str },
    #[error("{host:?} wants TLS, which is not supported yet")]
    Tls { host: String },
    #[error("no Docker Engine listens at any of {}", paths(.tried))]
    NoSocket { tried: Vec<PathBuf> },
    #[error("the docker context {name:?} has no readable {meta:?}")]
    Context { name: String, meta: PathBuf },
    #[error("Docker at {endpoint} cannot be reached")]
    Connect { endpoint: String, source: io::Error },
    #[error("Docker at {endpoint} broke off: {method} {path}")]
    Transport { endpoint: String, method: &'static str, path: String, source: ureq::Error },
    #[error("Docker at {endpoint} answers {status} to {method} {path}: {message}")]
    Status { endpoint: String, method: &'static str, path: String, status: u16, message: String },
    #[error("Docker at {endpoint} gives a malformed answer to {path}")]
    Malformed { endpoint: String, path: String, source: serde_json::Error },
    #[error("{endpoint} speaks version {theirs:?} of Docker's API; layermount speaks {ours}")]
    Version { endpoint: String, theirs: String, ours: &'static str },
    #[error("no such image: {name}")]
    NoSuchImage { name: String },
}

fn paths(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

impl DockerError {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. } | Self::NoSuchImage { .. })
    }
}

impl Fault for DockerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Host { .. } | Self::Context { .. } => ErrorKind::InvalidInput,
            Self::Tls { .. } | Self::Version { .. } => ErrorKind::Unsupported,
            Self::NoSocket { .. } => ErrorKind::EngineUnavailable,
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::EngineUnavailable,
            },
            Self::NoSuchImage { .. } => ErrorKind::ImageNotFound,
            Self::Transport { .. } | Self::Status { .. } | Self::Malformed { .. } => ErrorKind::EngineFailed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self.kind() {
            ErrorKind::PermissionDenied => Some(
                "the engine's socket is for root and the group docker: use sudo, or 'usermod -aG docker USER' and log in again"
                    .to_owned(),
            ),
            ErrorKind::EngineUnavailable => Some(
                "is dockerd running ('systemctl start docker')? DOCKER_HOST says where it listens; oci:DIR needs no engine"
                    .to_owned(),
            ),
            ErrorKind::Unsupported => Some("use the engine's unix socket, or 'skopeo copy' into an OCI layout".to_owned()),
            _ => None,
        }
    }
}
