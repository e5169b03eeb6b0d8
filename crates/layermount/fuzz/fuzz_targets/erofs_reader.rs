//! The reader of EROFS images: it answers in time, whatever it is given, with no more than the image has; what it takes is the same
//! after it was written again.
#![no_main]

#[path = "../mutate_image.rs"]
mod mutate_image;
#[path = "../mutate_tar.rs"]
mod mutate_tar;

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::erofs_reader(input));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_image::mutate(data, size, max_size, seed)
});
