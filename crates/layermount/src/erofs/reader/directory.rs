//! Directories.

use super::fields::{Fields, range};
use super::inode::RawInode;
use super::{Reader, Wrong, check};

/// An entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) nid: u64,
    pub(super) file_type: u8,
    pub(super) name: Vec<u8>,
}

impl Reader<'_> {
    pub(super) fn read_directory(&mut self, raw: &RawInode) -> Result<Vec<Entry>, Wrong> {
        let content = self.read_written(raw)?;
        let mut entries: Vec<Entry> = Vec::new();
        let last = content.len().div_ceil(512).saturating_sub(1);
        for (index, block) in content.chunks(512).enumerate() {
            let first = entries.len();
            read_block(block, index == last, &mut entries)?;
            // Blocks are filled as far as they can be.
            let added = entries.get(first).map_or(0, |entry| 12 + entry.name.len());
            if let Some(previous) = index.checked_sub(1).and_then(|previous| content.chunks(512).nth(previous)) {
                check(used(previous) + added > 512, "a block of a directory has room left")?;
            }
        }
        for pair in entries.windows(2) {
            let [before, behind] = pair else { continue };
            check(before.name < behind.name, "names of a directory are not sorted, or stand twice")?;
        }
        Ok(entries)
    }
}

/// Bytes of a block that is not the last one, without the zeros at its end.
fn used(block: &[u8]) -> usize {
    block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn read_block(block: &[u8], is_last: bool, entries: &mut Vec<Entry>) -> Result<(), Wrong> {
    let first_name = usize::from(Fields::new(block, 0, 12)?.u16(8));
    check(first_name > 0 && first_name.is_multiple_of(12), "offset of the first name of a block")?;
    let table = range(block, 0, first_name as u64)?;
    for (index, entry) in table.chunks_exact(12).enumerate() {
        let fields = Fields::new(entry, 0, 12)?;
        check(fields.u8(11) == 0, "reserved field of an entry")?;
        let start = u64::from(fields.u16(8));
        let name = match table.chunks_exact(12).nth(index + 1) {
            Some(next) => {
                let end = u64::from(Fields::new(next, 0, 12)?.u16(8));
                let length = end.checked_sub(start).ok_or(Wrong("offsets of names are not sorted"))?;
                range(block, start, length)?
            }
            // The last one ends with the directory, or where zeros begin.
            None => {
                let rest = block.get(start as usize..).ok_or(Wrong("a name lies behind the end"))?;
                let length = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
                let (name, padding) = rest.split_at(length);
                check(!is_last || padding.is_empty(), "a directory is longer than its names")?;
                check(padding.iter().all(|byte| *byte == 0), "padding of a block of a directory")?;
                name
            }
        };
        check((1..=255).contains(&name.len()), "length of a name")?;
        check(!name.contains(&0) && !name.contains(&b'/'), "a name has a slash or a NUL")?;
        entries.push(Entry { nid: fields.u64(0), file_type: fields.u8(10), name: name.to_vec() });
    }
    Ok(())
}
