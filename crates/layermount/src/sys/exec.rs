//! `execve(2)`, and what it takes.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use nix::libc;
use rustix::io::Errno;

use super::mount::last_errno;

/// Terminated strings and the null-terminated array of pointers to them that `execve` takes.
#[derive(Debug)]
pub(crate) struct Strings {
    strings: Vec<CString>,
    /// Points into `strings` and `spares`, which are never changed in length after `new`.
    pointers: Vec<*const c_char>,
    spares: Vec<Vec<u8>>,
    /// How many of them are in use.
    appended: usize,
}

impl Strings {
    /// For each of `spares`, that many bytes are set aside for one more string that becomes known only in the child.
    pub(crate) fn new(strings: Vec<CString>, spares: &[usize]) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.extend(std::iter::repeat_n(ptr::null(), spares.len() + 1));
        Self { strings, pointers, spares: spares.iter().map(|size| vec![0; *size]).collect(), appended: 0 }
    }

    /// Takes away what was appended, for a child that tries once more in the same memory. Async-signal-safe.
    pub(crate) fn forget_appended(&mut self) {
        self.appended = 0;
        self.pointers.iter_mut().skip(self.strings.len()).for_each(|pointer| *pointer = ptr::null());
    }

    /// Appends a string in the next spare room; false when it does not fit. Async-signal-safe.
    pub(crate) fn append(&mut self, parts: [&[u8]; 2]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let Some(spare) = self.spares.get_mut(self.appended) else { return false };
        let Some(room) = spare.get_mut(..=length) else { return false };
        for (to, from) in room.iter_mut().zip(parts.into_iter().flatten().chain(&[0])) {
            *to = *from;
        }
        match self.pointers.get_mut(self.strings.len() + self.appended) {
            Some(slot) => *slot = spare.as_ptr().cast(),
            None => return false,
        }
        self.appended += 1;
        true
    }
}

/// Replaces the program; returns only when that failed. Async-signal-safe.
pub(crate) fn execve(program: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    // SAFETY: both arrays end with a null pointer and point to terminated strings that `Strings` owns.
    unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    last_errno()
}
