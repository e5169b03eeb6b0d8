//! What the store has written down, read back after whatever happened to it.

use crate::store::entry::Record;
use crate::unpack::Listing;

/// A record or listing that can be read is the same after it was written and read again; nothing panics.
pub fn store_records(input: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(input) {
        let written = serde_json::to_vec(&record).expect("a record can be written");
        let again: Record = serde_json::from_slice(&written).expect("and read");
        assert_eq!(format!("{again:?}"), format!("{record:?}"));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(listing) = text.parse::<Listing>() {
        let mut written = Vec::new();
        listing.write(&mut written).expect("memory can be written to");
        let written = String::from_utf8(written).expect("what came from text is text");
        assert_eq!(written.parse::<Listing>().ok(), Some(listing), "{written:?}");
    }
}
