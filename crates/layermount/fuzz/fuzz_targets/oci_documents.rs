//! Manifests, indexes and configs: read or refused, never a panic; what is read is the same when its JSON is written by another
//! writer, who keeps the last of two members of one name; messages hold no control characters.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| layermount::fuzzing::oci_documents(input));
