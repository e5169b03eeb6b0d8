//! Work that several threads can share, for as long as a call takes.

use std::panic::resume_unwind;
use std::thread::ScopedJoinHandle;

/// Runs `worker` in as many threads as there are processors, but not more than `most`, the calling one among them. Returns what
/// came of each.
///
/// # Panics
///
/// When one of them does.
pub(crate) fn at_once<R: Send>(most: usize, worker: impl Fn() -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(most);
    let worker = &worker;
    std::thread::scope(|scope| {
        // Where no more threads are to be had, this one does the work.
        let others: Vec<_> =
            (1..threads).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, worker).ok()).collect();
        let own = worker();
        // The scope's end waits for closures to return, a join for threads to be gone: `pivot` counts threads.
        let ended: Vec<_> = others.into_iter().map(ScopedJoinHandle::join).collect();
        let theirs = ended.into_iter().map(|ended| ended.unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(own).chain(theirs).collect()
    })
}
