//! Fuzzer input as choices, and readers that give little at a time.

use std::io::Read;

/// Takes choices off the front of an input. At its end, every choice is the first.
#[derive(Debug)]
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// A number below `count`, which is 256 at most.
    pub(super) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    pub(super) fn pick<'t, T: ?Sized>(&mut self, choices: &[&'t T]) -> &'t T {
        choices[self.below(choices.len())]
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    /// What is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Gives its bytes in pieces whose lengths repeat a short pattern.
#[derive(Debug)]
pub(super) struct ShortReads<'a> {
    bytes: &'a [u8],
    pattern: [usize; 4],
    next: usize,
}

impl<'a> ShortReads<'a> {
    pub(super) fn new(bytes: &'a [u8], seed: u32) -> Self {
        // From single bytes to whole blocks, none of them aligned.
        let pattern = seed.to_le_bytes().map(|byte| match byte {
            0..128 => usize::from(byte % 16) + 1,
            byte => usize::from(byte) * 37,
        });
        Self { bytes, pattern, next: 0 }
    }
}

impl Read for ShortReads<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.pattern[self.next % 4]);
        self.next += 1;
        self.bytes.read(&mut buffer[..length])
    }
}
