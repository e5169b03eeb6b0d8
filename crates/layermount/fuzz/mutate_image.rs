//! Mutations of EROFS images, and of archives that images are made of: an archive becomes its image now and then, and an image
//! keeps what any reader looks at first.

use layermount::fuzzing::erofs_reader_image;
use libfuzzer_sys::fuzzer_mutate;

use crate::mutate_tar;

const PAGE: usize = 4096;
const SLOT: usize = 32;

/// Changes `data[..size]` in place; the answer is the new length.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let max_size = max_size.min(data.len());
    let [form, count, ..] = data[..size] else { return fuzzer_mutate(data, size, max_size) };
    if form % 4 == 0 {
        let head = 2 + 4 * usize::from(count % 3);
        return mutate_image(data, head, size, max_size, seed);
    }
    if seed % 4 == 0
        && let Some(image) = erofs_reader_image(&data[..size])
        && image.len() <= max_size
    {
        data[..image.len()].copy_from_slice(&image);
        // The same image as before would be no news, and dropped.
        let head = 2 + 4 * usize::from(image[1]);
        return mutate_image(data, head, image.len(), max_size, seed / 4);
    }
    let head = 2 + 3 * usize::from(count % 4);
    if seed % 4 == 1 || size <= head || max_size <= head {
        return fuzzer_mutate(data, size, max_size);
    }
    head + mutate_tar::mutate(&mut data[head..], size - head, max_size - head, seed / 4)
}

/// Mutates an image that stands behind a head.
fn mutate_image(data: &mut [u8], head: usize, size: usize, max_size: usize, seed: u32) -> usize {
    let size = match seed % 4 {
        0 if size > head + PAGE => {
            move_slots(&mut data[head..size], seed);
            size
        }
        _ => fuzzer_mutate(data, size, max_size),
    };
    // One in eight stays broken, or no refusal would ever be tried.
    if seed >> 8 & 7 == 0 || size <= head {
        return size;
    }
    let pages = ((size - head).div_ceil(PAGE)).min((max_size - head) / PAGE);
    let end = head + pages * PAGE;
    if end > size {
        data[size..end].fill(0);
    }
    let image = &mut data[head..end];
    if !image.is_empty() {
        repair(image, seed);
    }
    end
}

/// Copies an inode, or what looks like a part of one, over another.
fn move_slots(image: &mut [u8], seed: u32) {
    let slots = image.len() / SLOT;
    // Most of them are behind the content.
    let place = |seed: u32| slots - 1 - (seed as usize % slots) * (seed as usize / 7 % 8 + 1) / 8;
    let (from, to) = (place(seed / 16) * SLOT, place(seed / 1024) * SLOT);
    let length = (SLOT << (seed / 4 % 3)).min(image.len() - from.max(to));
    image.copy_within(from..from + length, to);
}

fn repair(image: &mut [u8], seed: u32) {
    let blocks = (image.len() / 512) as u32;
    image[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
    image[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
    if seed >> 12 & 1 == 0 {
        return;
    }
    // Inodes have their own number in them.
    let start = u32::from_le_bytes(image[1024 + 40..1024 + 44].try_into().expect("four bytes")) as usize;
    let Some(inodes) = start.checked_mul(512).and_then(|start| image.get_mut(start..)) else { return };
    for slot in 1..inodes.len() / SLOT {
        let Some(inode) = inodes.get_mut(slot * SLOT..slot * SLOT + 64) else { return };
        let looks_so = matches!(inode[..2], [1 | 5 | 9, 0]) && inode[6..8] == [0; 2] && inode[48..64] == [0; 16];
        if looks_so {
            inode[20..24].copy_from_slice(&(slot as u32).to_le_bytes());
        }
    }
}
