//! `layermount store`: what the store holds, whether it is sound, and what can go.

use std::collections::BTreeSet;
use std::io::Write;

use layermount::store::{PruneOptions, StoredLayer};
use layermount::{ErrorKind, Store};
use serde_json::{Value, json};

use crate::args::{Global, StoreCommand};
use crate::failure::{Failure, Result};
use crate::report::Report;
use crate::session::Session;
use crate::table::Table;
use crate::text::{bytes, counted, printable};

pub(crate) fn store(command: StoreCommand, global: &Global, out: &mut dyn Write) -> Result<()> {
    let Session { store, report } = Session::open(global)?;
    match command {
        StoreCommand::Ls { json } => list(&store, json, out),
        StoreCommand::Df { json } => usage(&store, json, out),
        StoreCommand::Verify => verify(&store, report, out),
        StoreCommand::Prune { all } => prune(&store, all, report, out),
    }
}

fn list(store: &Store, as_json: bool, out: &mut dyn Write) -> Result<()> {
    let layers = store.layers()?;
    if as_json {
        let object = |layer: &StoredLayer| {
            json!({
                "Name": layer.name,
                "DiffId": layer.diff_id.to_string(),
                "Path": layer.path.to_string_lossy(),
                "OverlayXattrs": layer.xattrs.as_str(),
                "Entries": layer.entries,
                "Size": layer.content_bytes,
            })
        };
        return Ok(writeln!(out, "{:#}", Value::from_iter(layers.iter().map(object)))?);
    }
    let mut table = Table::new(&["DIFF ID", ">SIZE", ">ENTRIES", "PATH"]);
    for layer in &layers {
        let path = layer.path.to_string_lossy();
        table.row([layer.diff_id.digest().short(), &bytes(layer.content_bytes), &layer.entries.to_string(), &path]);
    }
    Ok(table.write(out)?)
}

fn usage(store: &Store, as_json: bool, out: &mut dyn Write) -> Result<()> {
    let usage = store.usage()?;
    if as_json {
        let object = json!({
            "Path": store.path().to_string_lossy(),
            "Images": usage.images,
            "Layers": usage.layers,
            "LayerBytes": usage.layer_bytes,
            "StageBytes": usage.stage_bytes,
        });
        return Ok(writeln!(out, "{object:#}")?);
    }
    let mut table = Table::new(&["TYPE", ">COUNT", ">ON DISK"]);
    table.row(["images", &usage.images.to_string(), ""]);
    table.row(["layers", &usage.layers.to_string(), &bytes(usage.layer_bytes)]);
    table.row(["unfinished", "", &bytes(usage.stage_bytes)]);
    Ok(table.write(out)?)
}

fn verify(store: &Store, report: Report, out: &mut dyn Write) -> Result<()> {
    let verified = store.verify(&mut |layer| report.detail(&format!("reading {}", layer.path.display())))?;
    let (layers, read) = (counted(verified.layers, "layer"), bytes(verified.bytes));
    if verified.damage.is_empty() {
        return Ok(writeln!(out, "{layers} verified, {read} read, all as unpacked")?);
    }
    for damage in &verified.damage {
        writeln!(out, "{}", printable(&format!("{}/{}: {}", damage.layer.display(), damage.path, damage.what)))?;
    }
    let damaged: BTreeSet<_> = verified.damage.iter().map(|damage| &damage.layer).collect();
    let message = format!("{} of {layers} are not as they were unpacked", damaged.len());
    Err(Failure::new(ErrorKind::DigestMismatch, message)
        .with_hint("forget the images and remove the layers (layermount store prune --all), then pull again"))
}

fn prune(store: &Store, all: bool, report: Report, out: &mut dyn Write) -> Result<()> {
    let pruned = store.prune(&PruneOptions::default().all_images(all))?;
    for name in &pruned.in_use {
        report.warn(&format!("{name} is in use and stays"));
    }
    if all {
        writeln!(out, "{} forgotten", counted(pruned.images, "image"))?;
    }
    for name in &pruned.layers {
        report.detail(&format!("removed {name}"));
    }
    let leftovers = match pruned.leftovers {
        0 => String::new(),
        count => format!(" and {} of interrupted work", counted(count, "leftover")),
    };
    Ok(writeln!(out, "{}{leftovers} removed, {} freed", counted(pruned.layers.len(), "layer"), bytes(pruned.bytes))?)
}
