//! An engine that holds one image.

use std::io::{Cursor, Read};

/// It streams this archive of the whole image.
#[derive(Debug)]
pub(crate) struct Engine(pub(crate) Vec<u8>);

impl layermount::ImageArchive for Engine {
    fn open(&self) -> layermount::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.0.clone())))
    }

    fn describe(&self) -> String {
        "a test engine".into()
    }
}
