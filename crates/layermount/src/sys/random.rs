//! Names that nobody else makes up.

use std::fs::File;
use std::io::Read as _;

use crate::error::{SyscallContext as _, SyscallError};

/// `N` random bytes as hexadecimal digits.
pub(crate) fn hex<const N: usize>() -> Result<String, SyscallError> {
    let mut bytes = [0_u8; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.syscall("read", || "/dev/urandom".to_owned())?;
    Ok(hex::encode(bytes))
}
