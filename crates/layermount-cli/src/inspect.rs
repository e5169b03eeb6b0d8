//! `layermount inspect`: images as JSON, in the shape of Docker's `GET /images/{name}/json`.

use std::collections::BTreeMap;
use std::io::Write;

use layermount::{Config, Digest, Image, ImageName};
use serde_json::{Value, json};

use crate::args::{Global, InspectArgs};
use crate::failure::Result;
use crate::places::{PlacedLayer, places};
use crate::session::{Session, docker};
use crate::text::pretty;

pub(crate) fn inspect(args: &InspectArgs, global: &Global, out: &mut dyn Write) -> Result<()> {
    let session = Session::open(global)?;
    let mut objects = Vec::new();
    for typed in &args.images {
        let image = session.resolve(typed, &args.choice)?;
        let layers = places(&image, &session.store)?;
        let parents = match image.parent() {
            Some(_) => docker(&args.choice)?.parents(&image)?,
            None => Vec::new(),
        };
        objects.push(object(&image, &parents, &layers));
    }
    Ok(writeln!(out, "{}", pretty(&Value::from(objects)))?)
}

fn object(image: &Image, parents: &[Digest], layers: &[PlacedLayer<'_>]) -> Value {
    let (config, platform) = (image.config(), image.platform());
    let names: Vec<ImageName> = image.names().iter().filter_map(|name| name.parse().ok()).collect();
    let digests: Vec<String> = match image.manifest_digest() {
        Some(digest) => names.iter().map(|name| format!("{}@{digest}", repository(name))).collect(),
        None => Vec::new(),
    };
    let diff_ids: Vec<String> = image.layers().iter().map(|layer| layer.diff_id.to_string()).collect();
    json!({
        "Id": image.id().to_string(),
        "RepoTags": names.iter().map(ImageName::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Parent": parents.first().map(ToString::to_string).unwrap_or_default(),
        "Parents": parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Created": config.created(),
        "Author": config.author().unwrap_or_default(),
        "Architecture": platform.architecture(),
        "Variant": platform.variant().unwrap_or_default(),
        "Os": platform.os(),
        "Config": execution(config),
        "RootFS": { "Type": "layers", "Layers": diff_ids },
        "Layers": layers.iter().map(PlacedLayer::object).collect::<Vec<_>>(),
    })
}

/// What is not set is null, as Docker has it, except where Docker has an empty text.
fn execution(config: &Config) -> Value {
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let set = |keys: &mut dyn Iterator<Item = &str>| {
        let set: BTreeMap<String, Value> = keys.map(|key| (key.to_owned(), json!({}))).collect();
        (!set.is_empty()).then_some(set)
    };
    json!({
        "User": config.user(),
        "Env": list(config.env()),
        "Entrypoint": list(config.entrypoint()),
        "Cmd": list(config.cmd()),
        "WorkingDir": config.working_dir(),
        "Labels": (!config.labels().is_empty()).then(|| config.labels()),
        "ExposedPorts": set(&mut config.exposed_ports()),
        "Volumes": set(&mut config.volumes()),
        "StopSignal": config.stop_signal(),
    })
}

/// The familiar name without its tag.
fn repository(name: &ImageName) -> String {
    let familiar = name.familiar();
    let tag = name.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    familiar.strip_suffix(tag.as_str()).unwrap_or(&familiar).to_owned()
}
