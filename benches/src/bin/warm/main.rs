//! How long it takes from an image that is ready to a program that has run, beside other tools. Needs root.
//!
//! ```text
//! warm [--image OCI-LAYOUT:TAG] [--layermount PROGRAM] [--runs N] [--layers 1,10,64] [--json FILE] [--svg FILE]
//! ```
//!
//! Every contender runs `/bin/true` in the same tree, in turns, as a whole process from fork to exit; medians are of all runs but the
//! first of each. `benches/warm` builds what is measured and calls this.
#![allow(clippy::disallowed_methods, reason = "directories of its own")]

mod chart;
mod contender;
mod engine;
mod many;
mod measure;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use contender::contenders;
use measure::{Line, measure};
use scene::Scene;

/// What was asked for.
struct Options {
    image: Option<String>,
    layermount: PathBuf,
    runs: usize,
    layers: Vec<usize>,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        image: None,
        layermount: "target/release/layermount".into(),
        runs: 100,
        layers: vec![1, 10, 64],
        json: None,
        svg: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        match word.as_str() {
            "--image" => options.image = Some(value()?),
            "--layermount" => options.layermount = value()?.into(),
            "--runs" => options.runs = value()?.parse().map_err(|_| "--runs takes a number")?,
            "--layers" => {
                let numbers: Result<_, _> = value()?.split(',').map(str::parse).collect();
                options.layers = numbers.map_err(|_| "--layers takes numbers")?;
            }
            "--json" => options.json = Some(value()?.into()),
            "--svg" => options.svg = Some(value()?.into()),
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| compare(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), String> {
    let machine = machine();
    println!("{machine}");
    let (mut objects, mut charted) = (Vec::new(), None);
    for &layers in &options.layers {
        // The real image takes the place of the one that would have as many layers.
        let real = options.image.as_deref().filter(|_| layers == 10);
        let scene = Scene::make(&options.layermount, layers, real)?;
        let (contenders, gaps) = contenders(&scene, None);
        if objects.is_empty() {
            contenders.iter().for_each(|contender| println!("{}: {}", contender.name, contender.version));
        }
        let lines = measure(contenders, options.runs)?;
        print(&scene, &lines, &gaps);
        let concurrent = many::at_once(&scene)?;
        println!("{concurrent}");
        objects.push(object(&scene, &lines, &gaps));
        if layers == 10 || charted.is_none() {
            charted = Some((scene.describe(), lines));
        }
    }
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    if let Some(path) = &options.json {
        let object = json!({ "Machine": machine, "Runs": options.runs, "Images": objects });
        write(path, format!("{object:#}\n"))?;
    }
    if let (Some(path), Some((title, lines))) = (&options.svg, charted) {
        write(path, chart::svg(&title, &machine, &lines))?;
    }
    Ok(())
}

fn print(scene: &Scene, lines: &[Line], gaps: &[String]) {
    println!("\n{}", scene.describe());
    println!("{:<28} {:>10} {:>10} {:>6} {:>14} {:>8}", "", "median ms", "p90 ms", "runs", "layermount is", "at most");
    let ours = lines.iter().find(|line| line.name == contender::OURS);
    for line in lines {
        let (is, at_most) = match (ours, line.target) {
            (Some(ours), Some(target)) => {
                let verdict = if target.is_met(ours.median, line.median) { "met" } else { "missed" };
                (target.show(ours.median, line.median), format!("{target} {verdict}"))
            }
            (Some(ours), None) if line.name != ours.name => {
                (format!("{:.2} x", ours.median.as_secs_f64() / line.median.as_secs_f64()), String::new())
            }
            _ => (String::new(), String::new()),
        };
        let [median, p90] = [line.median, line.p90].map(|took| format!("{:.2}", took.as_secs_f64() * 1e3));
        println!("{:<28} {median:>10} {p90:>10} {:>6} {is:>14}  {at_most}", line.name, line.runs);
    }
    gaps.iter().for_each(|gap| println!("not measured: {gap}"));
}

fn object(scene: &Scene, lines: &[Line], gaps: &[String]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "Name": line.name, "Version": line.version, "Runs": line.runs,
                "MedianMilliseconds": line.median.as_secs_f64() * 1e3, "P90Milliseconds": line.p90.as_secs_f64() * 1e3,
            })
        })
        .collect();
    json!({ "Image": scene.describe(), "Lines": lines, "Gaps": gaps })
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model =
        information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "Linux {}, {processors} x {}",
        read("/proc/sys/kernel/osrelease").trim(),
        model.unwrap_or("unknown processor")
    )
}
