//! `layermount pull`: makes an image ready in the store.

use std::io::Write;
use std::time::Instant;

use layermount::{Content, Image};

use crate::args::{Global, PullArgs};
use crate::failure::Result;
use crate::session::{Session, place};
use crate::text::{counted, elapsed};

pub(crate) fn pull(args: &PullArgs, global: &Global, out: &mut dyn Write) -> Result<()> {
    let since = Instant::now();
    let session = Session::open(global)?;
    let image = session.resolve(&args.image, &args.choice)?;
    let realized = session.realize(&image, args.backing)?;
    session.store.record(&image)?;
    if session.report.is_quiet() {
        writeln!(out, "{}", image.id())?;
        return Ok(());
    }
    let layers = counted(image.layers().len(), "layer");
    match image.content() {
        Content::Located(_) => writeln!(
            out,
            "{}: nothing to pull: {layers} {}, to be mounted there (ID {})",
            name(&image, &args.image),
            place(image.content(), &session.store),
            image.id().short()
        )?,
        _ => writeln!(
            out,
            "{}: {layers} in {}, {} unpacked now (ID {}, {})",
            name(&image, &args.image),
            session.store.path().display(),
            realized.unpacked,
            image.id().short(),
            elapsed(since.elapsed())
        )?,
    }
    Ok(())
}

/// What to call the image from now on.
fn name<'a>(image: &'a Image, typed: &'a str) -> &'a str {
    image.names().first().map_or(typed, String::as_str)
}
