//! The memory of the launcher, of which an init is a copy and needs next to nothing.
//!
//! A copy would keep each page that the launcher changes twice. And what was on the launcher's heap, or its command line, is none of
//! the image's business, even if nobody is expected to come to see it.
//!
//! Kept are files (programs and libraries, with what lies right behind them: their variables), the stack, and the thread's own variables.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::sys::memory;

/// More than programs have on average; what is beyond is kept.
const MOST: usize = 512;

/// Parts that nobody needs.
pub(super) struct Memory {
    parts: [(usize, usize); MOST],
    count: usize,
    /// Of the process's first thread, and with it of the arguments of its program.
    stack: Range<usize>,
}

impl Memory {
    /// Reads `/proc/self/maps`.
    pub(super) fn read(maps: BorrowedFd<'_>) -> Self {
        let mut memory = Self { parts: [(0, 0); MOST], count: 0, stack: 0..0 };
        let needed = memory::places_in_use();
        let mut behind_file = 0;
        for_each_line(maps, |line| {
            let Some(part) = Part::parse(line) else { return };
            let is_needed = needed.iter().any(|place| part.range.contains(place));
            if part.is_stack {
                memory.stack = part.range.clone();
            }
            if !part.is_anonymous {
                behind_file = part.range.end;
            } else if !is_needed
                && part.range.start != behind_file
                && let Some(slot) = memory.parts.get_mut(memory.count)
            {
                *slot = (part.range.start, part.range.end);
                memory.count += 1;
            }
        });
        memory
    }

    /// Gives it back, and overwrites the command line and the environment at `strings`. Nothing that was allocated may be used afterwards.
    pub(super) fn let_go(self, strings: Range<usize>, name: &CStr) {
        if self.stack.start <= strings.start && strings.end <= self.stack.end {
            memory::overwrite(strings, name);
        }
        for (start, end) in self.parts.iter().take(self.count) {
            memory::unmap(*start..*end);
        }
    }
}

/// A line of proc_pid_maps(5).
struct Part {
    range: Range<usize>,
    /// Of no file, and none of the kernel's own.
    is_anonymous: bool,
    is_stack: bool,
}

impl Part {
    /// `7f0c...000-7f0c...000 rw-p 00000000 00:00 0     [heap]`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let (range, mode, _offset, _device, inode) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let dash = range.iter().position(|byte| *byte == b'-')?;
        let range = hexadecimal(range.get(..dash)?)?..hexadecimal(range.get(dash + 1..)?)?;
        let name = fields.next().unwrap_or_default();
        let is_unnamed = name.is_empty() || name == b"[heap]" || name.starts_with(b"[anon:");
        let is_private = mode == b"rw-p" && inode == b"0";
        Some(Self { range, is_anonymous: is_private && is_unnamed, is_stack: is_private && name == b"[stack]" })
    }
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0_usize, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        value.checked_mul(16)?.checked_add(usize::try_from(digit).ok()?)
    })
}

/// Lines that are too long are passed over.
fn for_each_line(file: BorrowedFd<'_>, mut take: impl FnMut(&[u8])) {
    let mut buffer = [0_u8; 8192];
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        let Ok(read @ 1..) = rustix::io::read(file, room) else { return };
        filled += read;
        let lines = buffer.get(..filled).unwrap_or_default();
        let end = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        lines.get(..end).unwrap_or_default().split(|byte| *byte == b'\n').for_each(&mut take);
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let anonymous = |line: &str| Part::parse(line.as_bytes()).map(|part| (part.range.start, part.is_anonymous));
        assert_eq!(anonymous("1000-2000 rw-p 00000000 00:00 0          [heap]"), Some((0x1000, true)));
        assert_eq!(anonymous("7f10-7fff rw-p 00000000 00:00 0 "), Some((0x7f10, true)));
        assert_eq!(anonymous("7f10-7fff rw-p 00000000 00:00 0 [anon: glibc: malloc]"), Some((0x7f10, true)));
        for kept in [
            "1000-2000 r-xp 00000000 fe:00 42 /bin/x",
            "1000-2000 rw-p 00000000 fe:00 42 /bin/x",
            "1000-2000 rw-p 00000000 00:00 0 [stack]",
            "1000-2000 r--p 00000000 00:00 0 [vvar]",
            "1000-2000 rw-s 00000000 00:01 7 /dev/zero (deleted)",
        ] {
            assert_eq!(anonymous(kept), Some((0x1000, false)), "{kept}");
        }
        assert_eq!(anonymous(""), None);
        assert_eq!(anonymous("zz-2000 rw-p 0 0 0"), None);
    }
}
