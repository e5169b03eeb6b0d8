//! `layermount layers`: the graph that an image is made of.

use std::io::Write;

use serde_json::Value;

use crate::args::{Global, LayersArgs};
use crate::failure::Result;
use crate::places::{PlacedLayer, places};
use crate::session::{Session, place};
use crate::table::Table;
use crate::text::{bytes, pretty, truncated};

/// How much of a command is shown; docker shows as much.
const COMMAND_WIDTH: usize = 45;

pub(crate) fn layers(args: &LayersArgs, global: &Global, out: &mut dyn Write) -> Result<()> {
    let session = Session::open(global)?;
    let image = session.resolve(&args.image, &args.choice)?;
    let layers = places(&image, &session.store)?;
    if args.json {
        return Ok(writeln!(out, "{}", pretty(&Value::from_iter(layers.iter().map(PlacedLayer::object))))?);
    }
    if layers.is_empty() {
        session.report.hint(&format!("there are no layers: the tree is {}", place(image.content(), &session.store)));
        return Ok(());
    }
    let mut table = Table::new(&[">#", "DIFF ID", "CHAIN ID", ">SIZE", "CREATED BY", "WHERE"]);
    for (number, placed) in layers.iter().enumerate() {
        let layer = placed.layer;
        let (diff_id, chain_id) = (layer.diff_id.digest(), layer.chain_id.digest());
        let created_by = layer.created_by.as_deref().unwrap_or("");
        let size = match (placed.bytes(), placed.blob_bytes()) {
            (Some(count), _) => bytes(count),
            // What is packed says little about what will be unpacked, so it is marked.
            (None, Some(count)) => format!("{} packed", bytes(count)),
            (None, None) => "?".to_owned(),
        };
        let (number, place) = (number.to_string(), placed.place.to_string());
        if args.no_trunc {
            table.row([&number, &diff_id.to_string(), &chain_id.to_string(), &size, created_by, &place]);
        } else {
            table.row([
                &number,
                diff_id.short(),
                chain_id.short(),
                &size,
                &truncated(created_by, COMMAND_WIDTH),
                &place,
            ]);
        }
    }
    Ok(table.write(out)?)
}
