//! Many starts at once.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::{OURS, contenders};
use crate::scene::Scene;

const AT_ONCE: usize = 100;
const ROUNDS: usize = 5;

/// How many starts a second layermount and bwrap manage, in turns.
pub(crate) fn at_once(scene: &Scene) -> Result<String, String> {
    let (contenders, _) = contenders(scene, Some(&[OURS, "bwrap"]));
    let mut took: Vec<(&str, Vec<Duration>)> = contenders.iter().map(|one| (one.name, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (one, (_, took)) in contenders.iter().zip(&mut took) {
            took.push(round(&one.command)?);
        }
    }
    let rates = took.iter_mut().map(|(name, took)| {
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        format!("{name} {:.0}/s", AT_ONCE as f64 / median.as_secs_f64())
    });
    Ok(format!("{AT_ONCE} at once: {}", rates.collect::<Vec<_>>().join(", ")))
}

/// Starts all before it waits for any.
fn round(command: &Command) -> Result<Duration, String> {
    let since = Instant::now();
    let start = |_| {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        again.spawn().map_err(|error| error.to_string())
    };
    let children: Vec<_> = (0..AT_ONCE).map(start).collect::<Result<_, _>>()?;
    for mut child in children {
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("{}: {status}, one of {AT_ONCE} at once", command.get_program().display()));
        }
    }
    Ok(since.elapsed())
}
