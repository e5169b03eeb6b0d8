//! The memory of a process that is a copy of another one.

use std::ffi::CStr;
use std::ops::Range;

use nix::libc;

/// Addresses in memory that every function needs: the stack, and the variables of the thread. Async-signal-safe.
#[inline(never)]
pub(crate) fn places_in_use() -> [usize; 2] {
    let here = 0_u8;
    // SAFETY: has no preconditions. The C library keeps its record of a thread beside the thread's variables.
    let thread = unsafe { libc::pthread_self() };
    [(&raw const here).addr(), thread as usize]
}

/// Gives a range of pages back. Async-signal-safe.
pub(crate) fn unmap(range: Range<usize>) {
    let Some(length) = range.end.checked_sub(range.start) else { return };
    // SAFETY: only ever called in a process with one thread, which goes on to use neither its heap nor anything else in this range.
    unsafe { libc::munmap(std::ptr::without_provenance_mut(range.start), length) };
}

/// Overwrites a range, with `text` at its beginning and zeros behind it, as far as there is room. Async-signal-safe.
pub(crate) fn overwrite(range: Range<usize>, text: &CStr) {
    let text = text.to_bytes().iter().copied().chain(std::iter::repeat(0));
    for (address, byte) in range.zip(text) {
        // SAFETY: only ever called in a process with one thread, for a part of its stack that no frame is in: the kernel put the
        // program's arguments and environment there, of which nobody has a use any more.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) };
    }
}
