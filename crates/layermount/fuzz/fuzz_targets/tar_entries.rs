//! The tar reader beside `tar-core`: what is accepted holds the very entries that the other finds (name, type, target, size,
//! mode, owner, time, xattrs, sparse map, data), or is on the list of differences at `layermount::fuzzing::tar_entries`. Short
//! reads change nothing; messages hold no control characters.
#![no_main]

#[path = "../mutate_tar.rs"]
mod mutate_tar;

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::tar_entries(input));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_tar::mutate(data, size, max_size, seed)
});
