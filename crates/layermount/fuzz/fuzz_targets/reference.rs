//! References: what parses can be printed and parses to the same again, in the long spelling and in the familiar one; messages
//! hold no control characters and are short.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::reference(input));
