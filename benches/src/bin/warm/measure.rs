//! Turns, and what comes of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::contender::Contender;

/// What came of a contender.
pub(crate) struct Times {
    pub(crate) median_ms: f64,
    pub(crate) p90_ms: f64,
}

/// Runs them all, in turns; what each does first is not counted.
pub(crate) fn measure(contenders: &mut [Contender], runs: usize) -> Result<Vec<Times>, String> {
    let mut took: Vec<Vec<Duration>> = contenders.iter().map(|_| Vec::new()).collect();
    for contender in &mut *contenders {
        contender.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    for round in 0..=runs {
        for (contender, took) in contenders.iter_mut().zip(&mut took) {
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
    took.into_iter().map(times).collect::<Option<_>>().ok_or_else(|| "too few runs".to_owned())
}

fn times(mut took: Vec<Duration>) -> Option<Times> {
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).map(|took| took.as_secs_f64() * 1e3);
    Some(Times { median_ms: at(50)?, p90_ms: at(90)? })
}
