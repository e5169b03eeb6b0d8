//! Blobs: what is decoded is what independent decoders (flate2 member by member, zstd in one call) make of the whole; what they
//! refuse is refused. Short reads change nothing. A blob that was cut or altered never passes for the one its descriptor names. No
//! archive over the limit.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::decode(input));
