//! Many starts at once: ours and bwrap.

use std::time::{Duration, Instant};

use layermount_benches::results::{AtOnce, Figure};

use crate::contender::{BWRAP, Contender};

const AT_ONCE: usize = 100;
const ROUNDS: usize = 5;
/// How many starts a second ours have to manage, as a share of what bwrap does.
const AT_LEAST: f64 = 1.0;

/// In turns.
pub(crate) fn at_once(contenders: &mut [Contender]) -> Vec<AtOnce> {
    let mut some: Vec<_> = contenders.iter_mut().filter(|one| one.side.is_ours() || one.name == BWRAP).collect();
    let mut rounds: Vec<Vec<Round>> = some.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (one, rounds) in some.iter_mut().zip(&mut rounds) {
            rounds.push(round(one));
        }
    }
    let per_second: Vec<f64> = rounds.iter_mut().map(|rounds| AT_ONCE as f64 / median(rounds).as_secs_f64()).collect();
    let bwrap = some.iter().position(|one| one.name == BWRAP).and_then(|at| per_second.get(at));
    some.iter()
        .zip(&rounds)
        .zip(&per_second)
        .map(|((one, rounds), &per_second)| AtOnce {
            name: one.name.to_owned(),
            at_once: AT_ONCE,
            started: AT_ONCE * ROUNDS,
            failed: rounds.iter().map(|round| round.failed).sum(),
            per_second,
            ratio: bwrap.filter(|_| one.side.is_ours()).map(|bwrap| Figure::at_least(per_second / bwrap, AT_LEAST)),
        })
        .collect()
}

struct Round {
    took: Duration,
    failed: usize,
}

fn median(rounds: &mut [Round]) -> Duration {
    rounds.sort_unstable_by_key(|round| round.took);
    rounds.get(rounds.len() / 2).map(|round| round.took).unwrap_or_default()
}

/// Starts all before it waits for any.
fn round(one: &mut Contender) -> Round {
    let since = Instant::now();
    let children: Vec<_> = (0..AT_ONCE).map(|_| one.command.spawn()).collect();
    let ended = children.into_iter().map(|child| child.and_then(|mut child| child.wait()));
    let failed = ended.filter(|ended| !ended.as_ref().is_ok_and(std::process::ExitStatus::success)).count();
    Round { took: since.elapsed(), failed }
}
