//! `layermount store mount` and `store umount`: images that stay mounted.

use std::io::Write;

use layermount::{ErrorKind, UserNamespace};

use crate::args::{Choice, Making};
use crate::failure::{Failure, Result};
use crate::images::familiar;
use crate::session::Session;
use crate::text::counted;

pub(crate) fn keep_mounted(
    mut session: Session,
    typed: &str,
    choice: &Choice,
    making: &Making,
    out: &mut dyn Write,
) -> Result<()> {
    check_privilege()?;
    session = session.durable(making.durable);
    let image = session.resolve(typed, choice)?;
    let realized = session.realize(&image, typed, choice, making)?;
    // Or its layers would be pruned, and the mount with them.
    session.store.record(&image)?;
    let is_new = session.store.keep_mounted(&image)?;
    drop(realized);
    if session.report.is_quiet() {
        return Ok(());
    }
    let name = image.names().first().map_or_else(|| typed.to_owned(), |name| familiar(name));
    let is = if is_new { "is mounted, until" } else { "was mounted already, until" };
    Ok(writeln!(out, "{name} {is} 'layermount store umount' or a reboot")?)
}

fn check_privilege() -> Result<()> {
    if !UserNamespace::is_needed() {
        return Ok(());
    }
    let failure = Failure::new(ErrorKind::PermissionDenied, "only root can keep an image mounted, and end that");
    Err(failure.with_hint("an ordinary user's layers lie in directories, whose pages are shared as it is"))
}

pub(crate) fn unmount(session: &Session, typed: Option<&str>, out: &mut dyn Write) -> Result<()> {
    check_privilege()?;
    let count = match typed {
        None => session.store.unmount_all()?,
        Some(typed) => {
            let image = session.resolve(typed, &Choice::default())?;
            usize::from(session.store.unmount(&image)?)
        }
    };
    match (typed, count) {
        (Some(typed), 0) => Err(Failure::new(ErrorKind::InvalidInput, format!("{typed} is not kept mounted here"))),
        _ if session.report.is_quiet() => Ok(()),
        _ => Ok(writeln!(out, "{} unmounted", counted(count, "image"))?),
    }
}
