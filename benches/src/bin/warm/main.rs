//! How long it takes from an image that is ready to a program that has run, beside other tools. Needs root.
//!
//! ```text
//! warm [--image LAYERS=OCI-LAYOUT:TAG] [--layermount PROGRAM] [--below DIR] [--runs N] [--layers 1,10,64] [--note TEXT]
//! ```
//!
//! Every contender runs `/bin/true` in the same tree, in turns, as a whole process from fork to exit. What came of it goes to standard
//! output, as JSON. `benches/compare` builds what is measured, calls this, and shows it.
#![allow(clippy::disallowed_methods, reason = "directories of its own")]

mod contender;
mod engine;
mod many;
mod measure;
mod runtime;
mod scene;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use layermount_benches::results::{Figure, Warm, WarmImage, WarmLine};

use contender::{Bound, Contender, Side, contenders};
use measure::{Times, measure};
use scene::Scene;

/// What was asked for.
struct Options {
    /// How many layers it has, and where it is.
    image: Option<(usize, String)>,
    layermount: PathBuf,
    /// Where all files are, as long as this runs.
    below: PathBuf,
    runs: usize,
    layers: Vec<usize>,
    notes: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        image: None,
        layermount: "target/release/layermount".into(),
        below: "/var/tmp".into(),
        runs: 100,
        layers: vec![1, 10, 64],
        notes: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} takes a value"))?;
        let number = |text: &str| text.parse().map_err(|_| format!("{word} takes numbers"));
        match word.as_str() {
            "--image" => {
                let (layers, reference) = value.split_once('=').ok_or("--image takes LAYERS=OCI-LAYOUT:TAG")?;
                options.image = Some((number(layers)?, reference.to_owned()));
            }
            "--layermount" => options.layermount = value.into(),
            "--below" => options.below = value.into(),
            "--runs" => options.runs = number(&value)?,
            "--layers" => options.layers = value.split(',').map(number).collect::<Result<_, _>>()?,
            "--note" => options.notes.push(value),
            _ => return Err(format!("{word} is not known")),
        }
    }
    if let Some(layers) =
        options.image.as_ref().map(|(layers, _)| *layers).filter(|layers| !options.layers.contains(layers))
    {
        options.layers.push(layers);
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(compare) {
        Ok(warm) => {
            println!("{warm}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("warm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: Options) -> Result<String, String> {
    let mut images = Vec::new();
    for &layers in &options.layers {
        // The real image takes the place of the one that would have as many layers.
        let real =
            options.image.as_ref().filter(|(count, _)| *count == layers).map(|(_, reference)| reference.as_str());
        eprintln!("warm: {layers} layers");
        let scene = Scene::make(&options.below, &options.layermount, layers, real)?;
        let (mut contenders, gaps) = contenders(&scene);
        let times = measure(&mut contenders, options.runs)?;
        let at_once = many::at_once(&mut contenders);
        let lines = contenders.iter().zip(&times).map(|(one, took)| line(one, took, options.runs, &contenders, &times));
        images.push(WarmImage { image: scene.describe(), layers, lines: lines.collect(), at_once, gaps });
    }
    serde_json::to_string_pretty(&Warm { notes: options.notes, images }).map_err(|error| error.to_string())
}

fn line(one: &Contender, took: &Times, runs: usize, contenders: &[Contender], times: &[Times]) -> WarmLine {
    let (mut ratios, mut more_ms) = (BTreeMap::new(), BTreeMap::new());
    if let Side::Other(targets) = &one.side {
        for (ours, ours_took) in contenders.iter().zip(times).filter(|(ours, _)| ours.side.is_ours()) {
            let target = targets.iter().find(|target| target.ours == ours.name).map(|target| target.at_most);
            let ratio = ours_took.median_ms / took.median_ms;
            let at_most = match target {
                Some(Bound::Ratio(at_most)) => Some(at_most),
                _ => None,
            };
            ratios.insert(ours.name.to_owned(), Figure::at_most(ratio, at_most));
            if let Some(Bound::More(at_most)) = target {
                let more = ours_took.median_ms - took.median_ms;
                more_ms.insert(ours.name.to_owned(), Figure::at_most(more, Some(at_most)));
            }
        }
    }
    WarmLine {
        name: one.name.to_owned(),
        version: one.version.clone(),
        ours: one.side.is_ours(),
        confinement: one.confinement.to_owned(),
        network: one.network.to_owned(),
        runs,
        median_ms: took.median_ms,
        p90_ms: took.p90_ms,
        ratios,
        more_ms,
    }
}
