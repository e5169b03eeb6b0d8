//! `layermount unpack`: an image's tree as a plain directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use layermount::ErrorKind;

use crate::args::{Global, UnpackArgs};
use crate::failure::{Failure, Result};
use crate::images::familiar;
use crate::report::Phase;
use crate::session::Session;
use crate::text::{counted, elapsed};
use crate::users::Entrance;

pub(crate) fn unpack(args: &UnpackArgs, global: &Global, out: &mut dyn Write) -> Result<()> {
    let begin = Instant::now();
    check_directory(&args.dir)?;
    let mut session = Session::open(global)?.durable(args.making.durable).entering(Entrance::if_possible()?);
    check_outside(&args.dir, session.store.path())?;
    let image = session.resolve(&args.image, &args.choice)?;
    let stack = session.realize(&image, &args.image, &args.choice, &args.making)?.stack;
    let since = Instant::now();
    let shown = args.dir.display();
    let flattened =
        stack.flatten_into(&args.dir).map_err(|error| explain(error).context(format!("cannot unpack into {shown}")))?;
    if args.making.durable {
        sync(&args.dir).map_err(|error| Failure::io(format!("cannot write {shown} to the disk"), error))?;
    }
    session.report.phase(Phase::Unpack, since, || format!("copied to {shown}"));
    for (skipped, what) in [(flattened.skipped_devices, "device"), (flattened.skipped_xattrs, "extended attribute")] {
        if skipped > 0 {
            let skipped = counted(usize::try_from(skipped).unwrap_or(usize::MAX), what);
            session.report.warn(&format!("{skipped} left out: this file system, or this user, cannot have them"));
        }
    }
    if !session.report.is_quiet() {
        let name = image.names().first().map_or_else(|| args.image.clone(), |name| familiar(name));
        let files = counted(usize::try_from(flattened.files).unwrap_or(usize::MAX), "file");
        let layers = counted(image.layers().len(), "layer");
        writeln!(out, "{name}: {files} of {layers} in {shown} ({})", elapsed(begin.elapsed()))?;
    }
    Ok(())
}

/// The tree may lie on another file system than the store, of which the library takes care.
fn sync(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}

fn explain(error: layermount::Error) -> Failure {
    let kind = error.kind();
    let failure = Failure::from(error);
    match kind {
        // Files that their mode closes to their owner: in a user namespace, its root reads them all the same.
        ErrorKind::PermissionDenied => {
            failure.with_hint("run as root, or as the root of a user namespace (unshare -r)")
        }
        ErrorKind::StorageFull => failure.with_hint("make room there, or unpack elsewhere"),
        _ => failure,
    }
}

/// What lies in the store, the store may remove.
fn check_outside(directory: &Path, store: &Path) -> Result<()> {
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = directory.canonicalize().or_else(|_| parent.canonicalize());
    match (place, store.canonicalize()) {
        (Ok(place), Ok(store)) if place.starts_with(&store) => {
            let (directory, store) = (directory.display(), store.display());
            Err(Failure::new(ErrorKind::InvalidInput, format!("{directory} lies in the store {store}"))
                .with_hint("name a directory that nothing else looks after"))
        }
        _ => Ok(()),
    }
}

/// Before anything is pulled for nothing.
fn check_directory(directory: &Path) -> Result<()> {
    let shown = directory.display();
    match std::fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(ErrorKind::InvalidInput, format!("{shown} is not empty"))
            .with_hint("name a directory that is empty, or is not there yet")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            match parent {
                Some(parent) if !parent.is_dir() => {
                    Err(Failure::new(ErrorKind::InvalidInput, format!("there is no directory {}", parent.display()))
                        .with_hint(format!("make it first: mkdir -p {}", parent.display())))
                }
                _ => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(Failure::new(ErrorKind::InvalidInput, format!("{shown} is not a directory")))
        }
        Err(error) => Err(Failure::io(format!("cannot unpack into {shown}"), error)),
    }
}
