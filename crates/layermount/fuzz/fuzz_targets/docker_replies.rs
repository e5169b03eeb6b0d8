//! Answers of a Docker Engine, as HTTP over a socket and as JSON: understood or refused, in time, never a panic; messages hold no
//! control characters; an inspection makes an image with as many layers as it names.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::docker_replies(input));
