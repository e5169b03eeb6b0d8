//! Layers as EROFS files: an archive is packed if and only if its fold is taken, or for a reason on the list at
//! `layermount::fuzzing::erofs_layer`; the file and indexes over it show what the fold says, content included; the archive is in it
//! as it was; the layer over itself is the layer.
#![no_main]

#[path = "../mutate_tar.rs"]
mod mutate_tar;

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::erofs_layer(input));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_tar::mutate(data, size, max_size, seed)
});
