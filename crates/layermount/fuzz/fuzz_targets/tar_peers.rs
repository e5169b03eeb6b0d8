//! The tar reader beside GNU tar and Python: what is accepted has the same names, types, targets and sizes to both, or is on the
//! lists of differences in `src/fuzzing/tar_peers/`. A peer may refuse, or stop with an error. Slow: every execution starts a
//! process.
#![no_main]

#[path = "../mutate_tar.rs"]
mod mutate_tar;

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::tar_peers(input));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_tar::mutate(data, size, max_size, seed)
});
