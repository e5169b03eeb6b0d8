//! `layermount store`: what the store holds, whether it is sound, and what can go.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use layermount::store::{PruneOptions, StoredImage, StoredLayer};
use layermount::{ErrorKind, Store};
use serde_json::{Value, json};

use crate::args::{Global, StoreCommand};
use crate::failure::{Failure, Result};
use crate::images::familiar;
use crate::report::Report;
use crate::session::Session;
use crate::table::Table;
use crate::text::{bytes, counted, pretty, printable};

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
        return Ok(writeln!(out, "{}", pretty(&Value::from_iter(layers.iter().map(object))))?);
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
        return Ok(writeln!(out, "{}", pretty(&object))?);
    }
    let mut table = Table::new(&["TYPE", ">COUNT", ">ON DISK"]);
    table.row(["images", &usage.images.to_string(), ""]);
    table.row(["layers", &usage.layers.to_string(), &bytes(usage.layer_bytes)]);
    table.row(["unfinished", "", &bytes(usage.stage_bytes)]);
    Ok(table.write(out)?)
}

fn verify(store: &Store, report: Report, out: &mut dyn Write) -> Result<()> {
    let verified = store.verify(&mut |layer| report.detail(&format!("reading {}", layer.path.display())))?;
    if verified.damage.is_empty() {
        let (layers, read) = (counted(verified.layers, "layer"), bytes(verified.bytes));
        return Ok(writeln!(out, "{layers} verified, {read} read, all as unpacked")?);
    }
    for damage in &verified.damage {
        writeln!(out, "{}", printable(&format!("{}/{}: {}", damage.layer.display(), damage.path, damage.what)))?;
    }
    let damaged: BTreeSet<_> = verified.damage.iter().map(|damage| &damage.layer).collect();
    for layer in &verified.in_use {
        report.warn(&format!("{} is in use: it can be made anew when that has ended", layer.display()));
    }
    for layer in &verified.unmarked {
        report.warn(&format!("{} goes on being used: the store cannot be written to", layer.display()));
    }
    let message = match damaged.len() {
        1 => format!("1 layer of {} is not as it was unpacked", store.path().display()),
        count => format!("{count} layers of {} are not as they were unpacked", store.path().display()),
    };
    let failure = Failure::new(ErrorKind::StoreDamaged, message);
    if !verified.unmarked.is_empty() {
        return Err(failure.with_hint("nothing was changed: verify again where the store can be written to"));
    }
    let pull = match needing(store, &damaged) {
        names if names.is_empty() => "no image needs them, and 'layermount store prune' removes them".to_owned(),
        names => format!("'layermount pull' of the images that need them makes them anew: {}", names.join(", ")),
    };
    Err(failure.with_hint(format!("damaged layers are not mounted any more; {pull}")))
}

/// The images in the store that have one of these layers: by name, or by ID where they have none.
fn needing(store: &Store, layers: &BTreeSet<&PathBuf>) -> Vec<String> {
    let named = |hex: &str| layers.iter().any(|layer| layer.to_string_lossy().ends_with(hex));
    let images = store.images().unwrap_or_default().into_iter().map(StoredImage::into_image);
    let needing = images.filter(|image| {
        image.layers().iter().any(|layer| named(layer.diff_id.digest().hex()) || named(layer.chain_id.digest().hex()))
    });
    needing.map(|image| image.names().first().map_or_else(|| image.id().to_string(), |name| familiar(name))).collect()
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
