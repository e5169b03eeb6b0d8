//! `layermount images`: what the store holds.

use std::io::Write;

use layermount::store::StoredImage;
use layermount::{Image, ImageName, Store};
use serde_json::{Value, json};

use crate::args::{Global, ImagesArgs};
use crate::failure::Result;
use crate::session::Session;
use crate::table::Table;
use crate::text::pretty;

pub(crate) fn images(args: &ImagesArgs, global: &Global, out: &mut dyn Write) -> Result<()> {
    let session = Session::open(global)?;
    let images: Vec<Image> = session.store.images()?.into_iter().map(StoredImage::into_image).collect();
    if args.json {
        let objects: Vec<Value> = images.iter().map(object).collect();
        return Ok(writeln!(out, "{}", pretty(&Value::from(objects)))?);
    }
    if images.is_empty() {
        session.report.hint(&empty(&session.store));
    }
    let mut table = Table::new(&["NAME", "IMAGE ID", "PLATFORM", "CREATED", ">LAYERS"]);
    for image in &images {
        let id = if args.no_trunc { image.id().to_string() } else { image.id().short().to_owned() };
        let (platform, layers) = (image.platform().to_string(), image.layers().len().to_string());
        // As `ls` does: the day is enough for telling images apart.
        let created = image.config().created().map_or("", |created| created.get(..10).unwrap_or(created));
        let mut names: Vec<String> = image.names().iter().map(|name| familiar(name)).collect();
        if names.is_empty() {
            names.push("<none>".to_owned());
        }
        for name in &names {
            table.row([name, &id, &platform, created, &layers]);
        }
    }
    Ok(table.write(out)?)
}

/// A name as people write it: `docker.io/library/debian:12` is `debian:12`.
pub(crate) fn familiar(name: &str) -> String {
    name.parse::<ImageName>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

fn object(image: &Image) -> Value {
    json!({
        "Id": image.id().to_string(),
        "Names": image.names(),
        "Platform": image.platform().to_string(),
        "Created": image.config().created(),
        "Layers": image.layers().len(),
    })
}

fn empty(store: &Store) -> String {
    format!(
        "no image was pulled into {}; `layermount pull oci:DIR` pulls one, and Docker's images run without being pulled",
        store.path().display()
    )
}
