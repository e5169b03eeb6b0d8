//! Mutations that keep an archive readable far enough to be interesting: libFuzzer's own ones, or blocks moved about, and then
//! checksums that are right and PAX records that are as long as they say.

use libfuzzer_sys::fuzzer_mutate;

const BLOCK: usize = 512;

/// Changes `data[..size]` in place; the answer is the new length.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let max_size = max_size.min(data.len());
    let size = match seed % 8 {
        0 | 1 => move_blocks(data, size, max_size, seed),
        _ => fuzzer_mutate(data, size, max_size),
    };
    // One in eight stays broken, or no refusal would ever be tried.
    if seed >> 8 & 7 != 0 {
        repair(&mut data[..size], seed);
    }
    size
}

/// Doubles, removes or swaps blocks.
fn move_blocks(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let blocks = size / BLOCK;
    if blocks < 2 {
        return fuzzer_mutate(data, size, max_size);
    }
    let (from, to) = (seed as usize / 16 % blocks * BLOCK, seed as usize / 4096 % blocks * BLOCK);
    match seed / 8 % 4 {
        0 if size + BLOCK <= max_size => {
            let block = data[from..from + BLOCK].to_vec();
            data.copy_within(to..size, to + BLOCK);
            data[to..to + BLOCK].copy_from_slice(&block);
            size + BLOCK
        }
        1 => {
            data.copy_within(from + BLOCK..size, from);
            size - BLOCK
        }
        2 => {
            // Another type, which is what most of a reader hangs on.
            const FLAGS: &[u8] = b"01234567xgLKSV\0";
            data[from + 156] = FLAGS[seed as usize / 64 % FLAGS.len()];
            size
        }
        _ => {
            let block = data[from..from + BLOCK].to_vec();
            data.copy_within(to..to + BLOCK, from);
            data[to..to + BLOCK].copy_from_slice(&block);
            size
        }
    }
}

/// Follows the headers as far as they can be followed.
fn repair(data: &mut [u8], seed: u32) {
    let mut offset = 0;
    while let Some(block) = data.get_mut(offset..offset + BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            return;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = block[124..136].iter().filter(|byte| matches!(byte, b'0'..=b'7'));
        let size = digits.fold(0_usize, |size, digit| size * 8 + usize::from(digit - b'0')) & 0xff_ffff;
        let is_pax = matches!(block[156], b'x' | b'g');
        offset += BLOCK;
        if is_pax && seed >> 12 & 1 == 0 {
            let end = data.len().min(offset + size);
            repair_records(&mut data[offset..end]);
        }
        offset += size.next_multiple_of(BLOCK);
    }
}

/// Writes lengths over the first digits of each line, as wide as what stands there.
fn repair_records(records: &mut [u8]) {
    let mut start = 0;
    while let Some(length) = records[start..].iter().position(|byte| *byte == b'\n') {
        let length = length + 1;
        let width = records[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if width > 0 {
            let text = format!("{length:0width$}");
            if text.len() == width {
                records[start..start + width].copy_from_slice(text.as_bytes());
            }
        }
        start += length;
    }
}
