//! Files that lie in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

/// An empty file.
pub(crate) fn file() -> File {
    memfd_create("file", MemfdFlags::CLOEXEC).expect("a file in memory").into()
}

/// All bytes of a file that has no more than `most`.
pub(crate) fn bytes_of(file: &File, most: u64) -> Option<Vec<u8>> {
    let length = file.metadata().expect("a file has a length").len();
    (length <= most).then(|| range_of(file, 0, length as usize))
}

pub(crate) fn range_of(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).expect("the file is as long as that");
    bytes
}
