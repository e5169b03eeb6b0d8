//! The meaning of a layer: entries with paths of their own mean the same in every order; of two entries for one path the last
//! counts; names make no more directories than they have components.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::layer_fold(input));
