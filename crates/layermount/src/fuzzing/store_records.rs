//! What the store has written down, read back after whatever happened to it.

use crate::store::entry::Record;
use crate::unpack::FileContent;
use crate::unpack::listing::{self, ReadListingError};

/// A record or listing that can be read is the same after it was written and read again; nothing panics.
pub fn store_records(input: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(input) {
        let written = serde_json::to_vec(&record).expect("a record can be written");
        let again: Record = serde_json::from_slice(&written).expect("and read");
        assert_eq!(format!("{again:?}"), format!("{record:?}"));
    }
    if let Some(files) = read_listing(input) {
        let mut written = Vec::new();
        for (path, content) in &files {
            let path = listing::unescape(path).expect("what was read is escaped");
            listing::write_line(&mut written, &path, *content).expect("memory can be written to");
        }
        let again = read_listing(&written).expect("what was written can be read");
        let unescaped = |files: Vec<(String, FileContent)>| -> Vec<_> {
            files.into_iter().map(|(path, content)| (listing::unescape(&path), content)).collect()
        };
        assert_eq!(unescaped(again), unescaped(files));
    }
}

/// `None` for a listing that is malformed, also in a path.
fn read_listing(text: &[u8]) -> Option<Vec<(String, FileContent)>> {
    let mut files = Vec::new();
    let read = listing::read(text, |path, content| -> Result<(), ReadListingError> {
        files.push((path.to_owned(), content));
        Ok(())
    });
    read.ok()?;
    files.iter().all(|(path, _)| listing::unescape(path).is_some()).then_some(files)
}
