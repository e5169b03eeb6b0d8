//! `--network`, `-p`, `--dns` and `--add-host`: from what was typed to the library's words.

use layermount::{Furnish, Network, Pasta};

use crate::args::{NetworkArgs, NetworkMode};
use crate::failure::{Failure, Result};

/// The network that is meant; `None` for the host's. Docker's default network publishes ports: here pasta's takes its place when that
/// is asked for.
pub(super) fn network(args: &NetworkArgs) -> Result<Option<Network>> {
    let pasta = |options: &[String]| {
        let pasta = args.publish.iter().fold(Pasta::new(), |pasta, port| pasta.publish(*port));
        Network::pasta(options.iter().fold(pasta, Pasta::option))
    };
    let network = match &args.network {
        Some(NetworkMode::Pasta(options)) => pasta(options),
        None if !args.publish.is_empty() => pasta(&[]),
        Some(mode) if !args.publish.is_empty() => return Err(cannot_publish(mode)),
        None | Some(NetworkMode::Host) => return Ok(None),
        Some(NetworkMode::None) => Network::none(),
        Some(NetworkMode::Namespace(path)) => Network::at(path),
        Some(NetworkMode::OfProcess(pid)) => Network::of_process(*pid),
    };
    // Before an image is unpacked in vain.
    network.check()?;
    Ok(Some(network))
}

fn cannot_publish(mode: &NetworkMode) -> Failure {
    let why = match mode {
        NetworkMode::Host => "in the host's network the program's ports are the host's",
        NetworkMode::None => "without a network there is no port",
        _ => "whoever has made the network connects it",
    };
    Failure::usage(format!("-p cannot be had with this --network: {why}"))
        .with_hint("leave out --network, or use --network pasta")
}

/// The names that programs know.
pub(super) fn furnish(args: &NetworkArgs, furnish: Furnish) -> Furnish {
    let furnish = args.dns.iter().fold(furnish, |furnish, server| furnish.dns_server(*server));
    let furnish = args.dns_search.iter().fold(furnish, Furnish::dns_search);
    let furnish = args.dns_option.iter().fold(furnish, Furnish::dns_option);
    args.add_host.iter().fold(furnish, |furnish, host| furnish.add_host(&host.name, host.address))
}
