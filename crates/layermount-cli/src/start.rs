//! The first and the last moment of the process.
//!
//! The standard library would prepare more than is needed here, above all for saying that a stack has overflowed: it reads where the
//! stack is out of `/proc/self/maps`. So `main` is C's, and does by hand what is missed otherwise: closed standard streams, `SIGPIPE`,
//! the status of a panic, output that is still in a buffer. What is gone: a panic's message has no name for the thread, a stack that
//! overflows ends in `SIGSEGV` without a word, and `std::env::args` is empty with musl, so that nothing may ask it.
#![allow(unsafe_code, reason = "the C library's side of a program")]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use nix::libc;

/// How the process ends. The standard library's cannot be asked for its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitCode(u8);

impl ExitCode {
    pub(crate) const SUCCESS: Self = Self(0);
    pub(crate) const FAILURE: Self = Self(1);
}

impl From<u8> for ExitCode {
    fn from(number: u8) -> Self {
        Self(number)
    }
}

/// What a Rust program whose first thread panics ends with.
const PANICKED: c_int = 101;

/// # Safety
///
/// `words` has `count` pointers to terminated strings that nobody changes, as the C library promises.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, expect(dead_code, reason = "tests have a main of their own"))]
unsafe extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    open_standard_streams();
    // Whoever writes to a pipe that nobody reads is told by an error.
    // SAFETY: takes integers, and there is no other thread yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // SAFETY: as the caller promises. There may be none (before Linux 5.18), but the array is there.
    let words = unsafe { std::slice::from_raw_parts(words, usize::try_from(count).unwrap_or(0)) };
    // SAFETY: as the caller promises.
    let words = words.iter().map(|word| unsafe { CStr::from_ptr(*word) });
    let words: Vec<OsString> = words.map(|word| OsStr::from_bytes(word.to_bytes()).to_owned()).collect();
    let status = std::panic::catch_unwind(|| crate::run_command(&words)).map_or(PANICKED, |ExitCode(code)| code.into());
    // Whoever does not read it has been told of all else.
    let _ = std::io::stdout().flush();
    status
}

/// A stream that is closed would be the first file that is opened, and be written to.
fn open_standard_streams() {
    for stream in 0..=2 {
        // SAFETY: takes integers.
        if unsafe { libc::fcntl(stream, libc::F_GETFD) } == -1 {
            // SAFETY: the path is a terminated string.
            let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
            // It takes the lowest number that is free, which is this one; without it, the next file would.
            if opened != stream {
                std::process::abort();
            }
        }
    }
}
