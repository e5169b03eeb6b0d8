//! What a start in a mounted image takes beyond a start: `spawn-overhead [RUNS]`, as root.
//!
//! In turns, each timed as a whole by this process: `/bin/true` with `RootMount::spawn` in a root that is mounted already, and waited
//! for; the same program out of the unpacked tree with `std::process`. And, by a process of its own each time, mount and pivot. For one
//! layer and for ten, as directories and as EROFS files where `TMPDIR` has them mounted.

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command as HostCommand;
use std::time::{Duration, Instant};

use layermount::{Command, Overlay};
use layermount_benches::{InPlace, MOVE, program_in};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((MOVE, layers)) = arguments.split_first().and_then(|(first, rest)| Some((first.to_str()?, rest))) {
        println!("{}", InPlace::of_arguments(layers)?.mount_and_pivot()?.as_nanos());
        return Ok(());
    }
    let runs = match arguments.as_slice() {
        [] => 500,
        [runs] => runs.to_string_lossy().parse().map_err(|_| "usage: spawn-overhead [RUNS]")?,
        _ => return Err("usage: spawn-overhead [RUNS]".into()),
    };
    let below = tempfile::tempdir()?;
    let program = program_in(below.path());
    println!("medians of {runs} runs, in microseconds");
    println!(
        "{:<10} {:>11} {:>15} {:>11} {:>12}",
        "layers", "spawn+wait", "fork+exec+wait", "difference", "mount+pivot"
    );
    for (name, count, layers) in InPlace::cases(below.path(), &[1, 10]) {
        let [spawn, bare, difference, pivot] = measure(&layers, &program, runs)?.map(|took| took.round());
        println!("{:<10} {spawn:>11} {bare:>15} {difference:>11} {pivot:>12}", format!("{name}/{count}"));
    }
    Ok(())
}

/// Medians of all; that of the difference is of each turn's. The first turn is for the caches.
fn measure(layers: &InPlace, program: &Path, runs: usize) -> Result<[f64; 4], Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let mut took: [Vec<f64>; 4] = Default::default();
    for turn in 0..=runs {
        let (spawn, bare, pivot) = (spawn(layers)?, bare(program)?, layers.moved_by(&own)?);
        if turn > 0 {
            let [spawn, bare, pivot] = [spawn, bare, pivot].map(|took| took.as_secs_f64() * 1e6);
            took.iter_mut().zip([spawn, bare, spawn - bare, pivot]).for_each(|(all, one)| all.push(one));
        }
    }
    Ok(took.map(|mut all| {
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }))
}

fn spawn(layers: &InPlace) -> Result<Duration, Box<dyn Error>> {
    let root = Overlay::new(layers.stack()?).mount()?;
    let since = Instant::now();
    let status = root.spawn(Command::new("/bin/true"))?.wait()?;
    let took = since.elapsed();
    if status.success() { Ok(took) } else { Err(format!("/bin/true in an image: {status}").into()) }
}

fn bare(program: &Path) -> Result<Duration, Box<dyn Error>> {
    let since = Instant::now();
    let status = HostCommand::new(program).status()?;
    let took = since.elapsed();
    if status.success() { Ok(took) } else { Err(format!("{}: {status}", program.display()).into()) }
}
