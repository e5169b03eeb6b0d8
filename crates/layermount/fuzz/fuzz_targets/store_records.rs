//! What the store wrote down (`layer.json`, `listing`): whatever is in the files, reading never panics, and what was read is the
//! same after it was written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::store_records(input));
