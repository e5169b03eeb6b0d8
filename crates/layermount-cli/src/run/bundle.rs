//! `layermount bundle`: an image and how it is to be run, for an OCI runtime.

use std::path::Path;
use std::time::Instant;

use layermount::{ErrorKind, UserNamespace};

use super::sockets::Sockets;
use super::{Given, Ready, explain, life, network, prepare, terminal, variables};
use crate::args::{BundleArgs, Global, Streams};
use crate::failure::{Failure, Result};
use crate::report::Phase;
use crate::session::Session;
use crate::users::Entrance;

pub(crate) fn bundle(bundle: &BundleArgs, global: &Global) -> Result<()> {
    let (args, directory) = (&*bundle.run, bundle.dir());
    let typed = args.image();
    let typed = typed.to_str().ok_or_else(|| Failure::usage(format!("{typed:?} is not UTF-8")))?;
    let refused = [
        (args.pin, "--pin"),
        (args.runtime.runtime.is_some(), "--runtime"),
        (args.life.pidfile.is_some(), "--pidfile"),
        (args.life.cidfile.is_some(), "--cidfile"),
        (args.life.stop_timeout.is_some(), "--stop-timeout"),
        (args.life.die_with_parent, "--die-with-parent"),
        (!args.network.listen.is_empty(), "--listen"),
        (args.network.preserve_fds.is_some(), "--preserve-fds"),
    ];
    for (given, flag) in refused {
        if given {
            return Err(Failure::usage(format!("{flag} is about a program that runs, and a bundle only says how")));
        }
    }
    if UserNamespace::is_needed() {
        return Err(unseen(args.image().to_string_lossy().as_ref()));
    }
    check_directory(directory)?;
    // Whoever runs it decides what its terminal is connected to.
    let streams = Streams { interactive: false, tty: args.streams.tty };
    let mut given = Given {
        variables: variables(&args.env_file, &args.env)?,
        network: network::network(&args.network)?,
        sockets: Sockets::default(),
        plan: terminal::Plan::of(&streams)?,
        marks: life::Marks::make(&args.life)?,
    };
    let entrance = Entrance::begin(args.userns.as_ref())?;
    let mut session = Session::open(global)?.durable(args.making.durable).entering(entrance);
    let image = session.resolve(typed, &args.choice)?;
    // There is nothing in memory that root's kernel could not hold, so there is no scratch directory to outlive this process.
    let Ready { root, command, scratch: _ } = prepare(args, typed, &mut session, &image, &mut given)?;
    let since = Instant::now();
    root.bundle(command).map_err(|error| explain(args, &image, error))?.write(directory)?;
    session.report.phase(Phase::Mount, since, || format!("the bundle is in {}", directory.display()));
    Ok(())
}

/// What is mounted in a user namespace, a runtime outside of it does not see.
fn unseen(image: &str) -> Failure {
    let message = "only root can leave a bundle behind: an ordinary user's mounts end with the command that made them";
    Failure::new(ErrorKind::PermissionDenied, message)
        .with_hint(format!("to have a runtime run it at once: layermount run --runtime crun {image}; or run as root"))
}

/// Before anything is unpacked for nothing.
fn check_directory(directory: &Path) -> Result<()> {
    let shown = directory.display();
    match std::fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::new(ErrorKind::InvalidInput, format!("{shown} is not empty"))
                .with_hint("name a directory that does not exist yet")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io(format!("cannot write a bundle to {shown}"), error)),
    }
}
