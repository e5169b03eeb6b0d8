//! Turns, and what comes of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::contender::{Contender, Target};

/// What came of a contender.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) runs: usize,
    pub(crate) median: Duration,
    pub(crate) p90: Duration,
    pub(crate) target: Option<Target>,
}

/// Runs them all, each as often as the others but for the slow ones.
pub(crate) fn measure(mut contenders: Vec<Contender>, runs: usize) -> Result<Vec<Line>, String> {
    let mut took: Vec<Vec<Duration>> = contenders.iter().map(|_| Vec::new()).collect();
    for contender in &mut contenders {
        contender.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    for round in 0..=runs {
        for (contender, took) in contenders.iter_mut().zip(&mut took) {
            if round % contender.every != 0 {
                continue;
            }
            let since = Instant::now();
            let status = contender.command.status().map_err(|error| format!("{}: {error}", contender.name))?;
            let elapsed = since.elapsed();
            if !status.success() {
                return Err(format!("{}: {status}", contender.name));
            }
            if round > 0 {
                took.push(elapsed);
            }
        }
    }
    let line = |(contender, mut took): (Contender, Vec<Duration>)| {
        took.sort_unstable();
        let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied();
        Some(Line {
            name: contender.name,
            version: contender.version,
            runs: took.len(),
            median: at(50)?,
            p90: at(90)?,
            target: contender.target,
        })
    };
    contenders.into_iter().zip(took).map(line).collect::<Option<_>>().ok_or_else(|| "too few runs".to_owned())
}
