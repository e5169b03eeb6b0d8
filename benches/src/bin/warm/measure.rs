//! Turns, and what comes of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::contender::Contender;

/// What came of a contender.
pub(crate) struct Times {
    pub(crate) median_ms: f64,
    pub(crate) p90_ms: f64,
}

/// A turn. The first run of it is not counted: the kernel takes down in the background what somebody else has left, engines above all,
/// and the processor's caches are theirs.
const IN_A_ROW: usize = 5;

/// Runs them all, in turns, and in another order each time.
pub(crate) fn measure(contenders: &mut [Contender], runs: usize) -> Result<Vec<Times>, String> {
    let mut took: Vec<Vec<Duration>> = contenders.iter().map(|_| Vec::new()).collect();
    for contender in &mut *contenders {
        contender.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    let mut turns: Vec<(&mut Contender, &mut Vec<Duration>)> = contenders.iter_mut().zip(&mut took).collect();
    let mut random = 1;
    for _ in 0..runs.div_ceil(IN_A_ROW - 1) {
        shuffle(&mut turns, &mut random);
        for (contender, took) in &mut turns {
            for run in 0..IN_A_ROW {
                let since = Instant::now();
                let status = contender.command.status().map_err(|error| format!("{}: {error}", contender.name))?;
                let elapsed = since.elapsed();
                if !status.success() {
                    return Err(format!("{}: {status}", contender.name));
                }
                if run > 0 {
                    took.push(elapsed);
                }
            }
        }
    }
    took.into_iter().map(times).collect::<Option<_>>().ok_or_else(|| "too few runs".to_owned())
}

/// Fisher and Yates, with the numbers of Knuth's MMIX.
fn shuffle<T>(turns: &mut [T], random: &mut u64) {
    for last in (1..turns.len()).rev() {
        *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        turns.swap(last, (*random >> 33) as usize % (last + 1));
    }
}

fn times(mut took: Vec<Duration>) -> Option<Times> {
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).map(|took| took.as_secs_f64() * 1e3);
    Some(Times { median_ms: at(50)?, p90_ms: at(90)? })
}
