//! Shows what `benches/compare` measured.
//!
//! ```text
//! report RESULTS.json [--markdown FILE] [--svg DIR]
//! ```
//!
//! Tables go to standard output as Markdown, and to FILE; bars to DIR/cold.svg and DIR/warm.svg.
#![allow(clippy::disallowed_methods, reason = "files of the caller's")]

mod chart;
mod cold;
mod table;
mod warm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use layermount_benches::results::{Machine, Results};

fn main() -> ExitCode {
    match report() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report() -> Result<(), String> {
    let (mut json, mut markdown, mut svg) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--markdown" => markdown = words.next().map(PathBuf::from),
            "--svg" => svg = words.next().map(PathBuf::from),
            _ => json = Some(PathBuf::from(word)),
        }
    }
    let json = json.ok_or("of which file?")?;
    let failed = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let read = std::fs::read_to_string(&json).map_err(|error| failed(&json, &error))?;
    let results: Results = serde_json::from_str(&read).map_err(|error| failed(&json, &error))?;
    let machine = machine(&results.date, &results.machine);
    let mut text = format!("{machine}\n");
    text.extend(results.cold.as_ref().map(cold::markdown));
    text.extend(results.warm.as_ref().map(warm::markdown));
    print!("{text}");
    let write = |path: &Path, text: &str| std::fs::write(path, text).map_err(|error| failed(path, &error));
    if let Some(path) = &markdown {
        write(path, &text)?;
    }
    if let Some(directory) = &svg {
        std::fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        if let Some(cold) = &results.cold {
            write(&directory.join("cold.svg"), &cold::svg(cold, &machine))?;
        }
        if let Some(warm) = &results.warm {
            write(&directory.join("warm.svg"), &warm::svg(warm, &machine))?;
        }
    }
    Ok(())
}

fn machine(date: &str, machine: &Machine) -> String {
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let Machine { kernel, cpu, cpus, .. } = machine;
    format!("{date}, Linux {kernel}, {cpus} x {cpu}, {gib:.0} GiB of memory")
}
