//! Whether the files of a rootless engine have the owners that they would have here.
//!
//! Such an engine lives in a user namespace (rootlesskit), and on disk its layers' files belong to whom its ID maps say. Where the
//! layers are going to be mounted through the same maps, they are right as they lie.

use std::os::unix::net::UnixStream;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::caller::{Caller, Owners};
use crate::userns::IdMaps;

use super::endpoint::Endpoint;

/// `Err` says why not. `maps` are those that the layers will be mounted through, where that is not in the calling thread's own user
/// namespace.
pub(super) fn shares_ids(endpoint: &Endpoint, maps: Option<&IdMaps>) -> Result<(), String> {
    let ours = match (maps, Caller::current().owners) {
        (Some(maps), _) => maps.clone(),
        // The kernel prints the maps of others as they look from here.
        (None, Owners::Mapped(_)) => IdMaps::of_process("self").map_err(|error| error.to_string())?.seen_from_inside(),
        (None, Owners::All | Owners::One) => return Err("the layers would be mounted without its ID maps".to_owned()),
    };
    let Endpoint::Unix(path) = endpoint else { return Err("it is not behind a unix socket".to_owned()) };
    let socket = UnixStream::connect(path).map_err(|error| error.to_string())?;
    // Of whoever called listen(2): unix(7), SO_PEERCRED.
    let peer = getsockopt(&socket, PeerCredentials).map_err(|errno| errno.to_string())?;
    let theirs = IdMaps::of_process(&peer.pid().to_string()).map_err(|error| format!("{error:#}"))?;
    match theirs.maps_as(&ours) {
        true => Ok(()),
        false => Err("its ID maps are others".to_owned()),
    }
}
