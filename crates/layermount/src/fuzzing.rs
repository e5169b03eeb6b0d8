//! What the fuzz targets of `fuzz/` state about this crate, in terms of its own types.
//!
//! Each function here takes any bytes and panics where a promise is broken, and only there. The targets call them under
//! libFuzzer; the tests at the end of this file call them with the seeds and with every input that once broke a promise
//! (`fuzz/regressions/TARGET/`), on any toolchain.
//!
//! This module exists only for fuzzing (`--cfg fuzzing`, which `cargo fuzz` sets) and in unit tests. It is no part of the API.

mod bytes;
#[cfg(feature = "zstd")]
mod decode;
mod erofs_layer;
mod erofs_reader;
mod layer_fold;
pub(crate) mod memory;
mod oci_documents;
mod reference;
mod seen;
mod store_records;
mod tar_entries;
mod tar_peers;

#[cfg(feature = "zstd")]
pub use decode::decode;
pub use erofs_layer::erofs_layer;
pub use erofs_reader::{erofs_reader, erofs_reader_image};
pub use layer_fold::layer_fold;
pub use oci_documents::oci_documents;
pub use reference::reference;
pub use store_records::store_records;
pub use tar_entries::tar_entries;
pub use tar_peers::tar_peers;

use crate::error::Error;

/// See the function of this name in `source/docker/fuzzing.rs`.
#[cfg(feature = "docker")]
pub fn docker_replies(input: &[u8]) {
    crate::source::docker_replies(input);
}

/// Messages go to terminals: none may hold what would drive one, nor what would turn the order of its letters.
pub(crate) fn assert_printable(error: &Error) {
    let hint = error.hint().unwrap_or_default();
    for text in [format!("{error:#}"), hint] {
        let found = text.chars().find(|c| {
            c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        assert_eq!(found, None, "a message holds a control character: {text:?}");
    }
}

#[cfg(test)]
mod tests;
