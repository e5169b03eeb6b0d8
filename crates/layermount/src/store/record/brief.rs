//! What a name says of its image, so that a program can be started in it without reading the image's own record.
//!
//! That record has a descriptor and two digests for every layer, and parsing hundreds of them takes longer than mounting the file
//! system that they are. A name therefore repeats what is needed of it, together with the digest of the text that this was taken
//! from (a CRC-32 would first ask the processor, at each start, for what it can). Where the text is another by now (pulled again under another name, cut short by a power cut, removed),
//! the brief says nothing, and the record is read.
//!
//! The text is still at hand when somebody asks for the rest, and is parsed then. It was parsed before the brief was written.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{Execution, Image, Outline, Platform};

use super::{StoredImage, image_of};

/// To be raised with every change in how records, or configs in them, are read: what this release would read otherwise, or not at
/// all, must not be vouched for by another.
const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Brief {
    format: u32,
    text: Digest,
    outline: Outline,
    execution: Execution,
}

impl Brief {
    /// The brief of a record's text, if that can be read back.
    pub(super) fn of(text: &[u8]) -> Option<Self> {
        let image = parse(text)?;
        let (outline, execution) = (image.outline().clone(), image.config().execution().clone());
        Some(Self { format: FORMAT, text: Digest::sha256(text), outline, execution })
    }

    /// The image, if this is the text that the brief was made of; otherwise the text again.
    pub(super) fn image(self, (id, platform): (Digest, Platform), text: Vec<u8>) -> Result<Image, Vec<u8>> {
        let Self { format, text: expected, outline, execution } = self;
        if format != FORMAT || Digest::sha256(&text) != expected {
            return Err(text);
        }
        Ok(Image::deferred((id, platform), execution, outline, move || parse(&text)))
    }
}

fn parse(text: &[u8]) -> Option<Image> {
    image_of(text).map(StoredImage::into_image)
}
