//! `layermount pull`: makes an image ready in the store.

use std::io::Write;
use std::time::Instant;

use layermount::Content;

use crate::args::{Global, PullArgs};
use crate::failure::Result;
use crate::images::familiar;
use crate::session::{Session, place};
use crate::text::{counted, elapsed};
use crate::users::Entrance;

pub(crate) fn pull(args: &PullArgs, global: &Global, out: &mut dyn Write) -> Result<()> {
    let since = Instant::now();
    let mut session = Session::open(global)?.durable(args.making.durable).entering(Entrance::if_possible()?);
    let image = session.resolve(&args.image, &args.choice)?;
    let realized = session.realize(&image, &args.image, &args.choice, &args.making)?;
    session.store.record(&image)?;
    if session.report.is_quiet() {
        writeln!(out, "{}", image.id())?;
        return Ok(());
    }
    let layers = counted(image.layers().len(), "layer");
    let name = image.names().first().map_or_else(|| args.image.clone(), |name| familiar(name));
    match image.content() {
        Content::Located(_) => writeln!(
            out,
            "{name}: nothing to pull: {layers} {} (ID {})",
            place(image.content(), &session.store),
            image.id().short()
        )?,
        _ => writeln!(
            out,
            "{name}: {layers} in {}, {} unpacked now (ID {}, {})",
            session.store.path().display(),
            realized.unpacked,
            image.id().short(),
            elapsed(since.elapsed())
        )?,
    }
    Ok(())
}
