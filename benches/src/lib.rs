//! Benches live in `benches/benches/`; this library holds what they share.
