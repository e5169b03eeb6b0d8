//! `layermount store`: what the store holds, whether it is sound, and what can go.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use layermount::store::{Backing, PruneOptions, StoredImage, StoredLayer};
use layermount::{DiffId, ErrorKind, Store};
use serde_json::{Value, json};

use crate::args::{Global, StoreCommand};
use crate::failure::{Failure, Result};
use crate::images::familiar;
use crate::kept::{keep_mounted, unmount};
use crate::report::Report;
use crate::session::Session;
use crate::table::Table;
use crate::text::{bytes, counted, pretty, printable};
use crate::users::Entrance;

pub(crate) fn store(command: StoreCommand, global: &Global, out: &mut dyn Write) -> Result<()> {
    let session = Session::open(global)?;
    match command {
        StoreCommand::Ls { json } => list(&among_its_users(session)?.store, json, out),
        StoreCommand::Df { json } => usage(&among_its_users(session)?.store, json, out),
        StoreCommand::Verify => {
            let Session { store, report, .. } = among_its_users(session)?;
            verify(&store, report, out)
        }
        StoreCommand::ExportLayer { diff_id, output } => {
            export_layer(&among_its_users(session)?.store, &diff_id, output, out)
        }
        StoreCommand::Mount { choice, making, image } => keep_mounted(session, &image, &choice, &making, out),
        StoreCommand::Umount { image, .. } => unmount(&session, image.as_deref(), out),
        StoreCommand::Prune { all } => prune(&session.store, all, session.report, out),
    }
}

/// Files that other users of a map own are closed to this one outside of it.
fn among_its_users(session: Session) -> Result<Session> {
    Entrance::if_possible()?.enter()?;
    Ok(session)
}

fn list(store: &Store, as_json: bool, out: &mut dyn Write) -> Result<()> {
    let layers = store.layers()?;
    if as_json {
        let object = |layer: &StoredLayer| {
            json!({
                "Name": layer.name,
                "DiffId": layer.diff_id.to_string(),
                "Path": layer.path.to_string_lossy(),
                "Backing": if layer.backing == Backing::Erofs { "erofs" } else { "dir" },
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

#[expect(clippy::disallowed_methods, reason = "the file is where the caller says, and not in the store")]
fn export_layer(store: &Store, wanted: &str, output: Option<PathBuf>, out: &mut dyn Write) -> Result<()> {
    let layers = store.layers()?;
    let diff_id = find_layer(&layers, wanted)?;
    if !layers.iter().any(|layer| layer.diff_id == diff_id && layer.backing == Backing::Erofs) {
        // It says why not, before a file is emptied for nothing.
        store.export_layer(&diff_id, &mut io::sink())?;
    }
    match output {
        Some(path) => {
            let at = |error| Failure::io(format!("cannot write {}", path.display()), error);
            store.export_layer(&diff_id, &mut File::create(&path).map_err(at)?)?;
        }
        None if io::stdout().is_terminal() => {
            return Err(Failure::new(ErrorKind::InvalidInput, "an archive is not for a terminal")
                .with_hint("use --output FILE, or a pipe"));
        }
        None => _ = store.export_layer(&diff_id, out).map_err(of_stdout)?,
    }
    Ok(())
}

/// Whoever has read enough of an archive hears nothing of it, as of everything else.
fn of_stdout(error: layermount::Error) -> Failure {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    match causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).next() {
        Some(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Failure::from(io::Error::from(cause.kind())),
        _ => Failure::from(error),
    }
}

/// The layer that is meant by a diff ID or by the first digits of one.
fn find_layer(layers: &[StoredLayer], wanted: &str) -> Result<DiffId> {
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let is_meant = |diff_id: &DiffId| !digits.is_empty() && diff_id.digest().hex().starts_with(digits);
    let found: BTreeSet<_> = layers.iter().map(|layer| &layer.diff_id).filter(|diff_id| is_meant(diff_id)).collect();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(diff_id), None) => Ok(diff_id.clone()),
        (None, _) => Err(Failure::new(ErrorKind::BlobNotFound, format!("no layer of the store is {wanted}"))
            .with_hint("'layermount store ls' lists the layers")),
        (Some(_), Some(_)) => Err(Failure::new(ErrorKind::InvalidInput, format!("several layers start with {wanted}"))
            .with_hint("say more digits of the diff ID")),
    }
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
        let what = match layer.parent().is_some_and(|shelf| shelf.ends_with("erofs")) {
            true => "what runs in it goes on with the damaged file",
            false => "it can be made anew when that has ended",
        };
        report.warn(&format!("{} is in use: {what}", layer.display()));
    }
    for layer in &verified.unmarked {
        report.warn(&format!("{} goes on being used: the store cannot be written to", layer.display()));
    }
    let is_index = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("image-"));
    let (indexes, place) = (damaged.iter().filter(|path| is_index(path)).count(), store.path().display());
    let message = match (damaged.len() - indexes, indexes) {
        (0, 1) => format!("1 index of {place} is not as it was made"),
        (0, count) => format!("{count} indexes of {place} are not as they were made"),
        // Indexes of damaged layers go with them.
        (1, _) => format!("1 layer of {place} is not as it was unpacked"),
        (count, _) => format!("{count} layers of {place} are not as they were unpacked"),
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
    // From outside, because from inside of a user namespace the mounts of the others are not seen.
    let mut pruned = store.prune(&PruneOptions::default().all_images(all))?;
    if pruned.to_be_swept {
        Entrance::if_possible()?.enter()?;
        let swept = store.sweep()?;
        pruned.bytes += swept.bytes;
        if swept.to_be_swept {
            let stage = store.path().join("stage");
            report.warn(&format!("files of users that are not mapped here stay in {}", stage.display()));
        }
    }
    for name in &pruned.in_use {
        report.warn(&format!("{name} is in use and stays"));
    }
    if all {
        writeln!(out, "{} forgotten", counted(pruned.images, "image"))?;
    }
    for name in pruned.layers.iter().chain(&pruned.indexes) {
        report.detail(&format!("removed {name}"));
    }
    let leftovers = match pruned.leftovers {
        0 => String::new(),
        count => format!(" and {} of interrupted work", counted(count, "leftover")),
    };
    Ok(writeln!(out, "{}{leftovers} removed, {} freed", counted(pruned.layers.len(), "layer"), bytes(pruned.bytes))?)
}
