//! `layermount bench`: how long an image takes to become a running program, phase by phase.
//!
//! Each run is done twice, one after the other: in this process, where the phases can be told from each other, and by starting
//! `layermount run` as a shell would, for the whole.

mod baseline;
mod cold;
mod sample;
mod summary;

use std::io::Write;

use layermount::{ErrorKind, Image};
use serde_json::{Value, json};

use crate::args::{BenchArgs, Global};
use crate::failure::{Failure, Result};
use crate::session::{Session, store_path};
use crate::start::ExitCode;
use crate::table::Table;
use crate::text::{counted, pretty};
use crate::users::Entrance;
use cold::EmptyStore;
use sample::Sample;
use summary::{Measured, Summary};

pub(crate) fn bench(args: &BenchArgs, global: &Global, out: &mut dyn Write) -> Result<ExitCode> {
    let image = args.image().ok_or_else(|| Failure::usage("the image's name is not UTF-8"))?;
    // Before anything takes time.
    let baseline = args.baseline.as_deref().map(baseline::read).transpose()?;
    let (found, samples) = if args.cold { cold(args, global, image)? } else { warm(args, global, image)? };
    let measured = Measured::new(&found, args, &samples);
    if args.json {
        writeln!(out, "{}", pretty(&object(&measured)))?;
    } else {
        write_table(&measured, args, out)?;
    }
    let Some(baseline) = baseline else { return Ok(ExitCode::SUCCESS) };
    baseline.compare(&measured, args.max_regression)?;
    Ok(ExitCode::SUCCESS)
}

/// With layers that are ready, if need be since a moment ago.
fn warm(args: &BenchArgs, global: &Global, typed: &str) -> Result<(Image, Vec<Sample>)> {
    let path = store_path(global)?;
    let mut session = Session::open_at(path.clone(), global)?.entering(Entrance::begin(None)?);
    let image = session.resolve(typed, &args.choice)?;
    session.realize(&image, typed, &args.choice, &args.making)?;
    // One run for what the kernel and the disk have not looked at for a while.
    Sample::take(&mut session, typed, args)?;
    let mut samples = Vec::new();
    for _ in 0..args.runs() {
        let mut sample = Sample::take(&mut session, typed, args)?;
        sample.take_whole(&path, typed, args)?;
        samples.push(sample);
    }
    Ok((image, samples))
}

fn cold(args: &BenchArgs, global: &Global, typed: &str) -> Result<(Image, Vec<Sample>)> {
    let mut samples = Vec::new();
    let mut found = None;
    // This process can move once; where it stands then, all stores are its own.
    let mut inside = Some(Entrance::begin(None)?.enter()?);
    for _ in 0..args.runs() {
        let store = EmptyStore::make()?;
        let mut session = Session::open_at(store.path().to_owned(), global)?.durable(args.making.durable);
        if let Some(inside) = inside.take() {
            session = session.inside(inside);
        }
        let result = Sample::take(&mut session, typed, args).and_then(|sample| {
            found = Some(session.resolve(typed, &args.choice)?);
            Ok(sample)
        });
        let removed = store.remove(&session.store);
        samples.push(result?);
        removed?;
    }
    let found = found.ok_or_else(|| Failure::new(ErrorKind::Os, "nothing was run"))?;
    Ok((found, samples))
}

fn object(measured: &Measured) -> Value {
    let phases: serde_json::Map<String, Value> =
        measured.phases.iter().map(|(name, summary)| ((*name).to_owned(), summary.object())).collect();
    json!({
        "Image": measured.image,
        "Layers": measured.layers,
        "Cold": measured.cold,
        "Runs": measured.runs,
        "Program": measured.program,
        "Machine": measured.machine,
        "Version": env!("CARGO_PKG_VERSION"),
        "Phases": phases,
    })
}

fn write_table(measured: &Measured, args: &BenchArgs, out: &mut dyn Write) -> Result<()> {
    let kind = if args.cold { "from an empty store" } else { "with layers that are ready" };
    let (layers, runs) = (counted(measured.layers, "layer"), measured.runs);
    writeln!(out, "{}: {layers}, {runs} x {}, {kind}", measured.image, measured.program)?;
    writeln!(out, "{}", measured.machine)?;
    let mut table = Table::new(&["PHASE", ">MEDIAN", ">P90", ">LEAST", "WHAT"]);
    for (name, summary) in &measured.phases {
        let Summary { median, p90, least, .. } = summary;
        let cells = [*median, *p90, *least].map(summary::milliseconds);
        table.row([*name, &cells[0], &cells[1], &cells[2], summary::describe(name)]);
    }
    Ok(table.write(out)?)
}
