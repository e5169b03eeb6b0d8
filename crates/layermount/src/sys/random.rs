//! Names that nobody else makes up.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{SyscallContext as _, SyscallError};

/// `N` random bytes as hexadecimal digits. Up to 256 come at once (getrandom(2)).
pub(crate) fn hex<const N: usize>() -> Result<String, SyscallError> {
    const { assert!(N <= 256) };
    let mut bytes = [0_u8; N];
    rustix::io::retry_on_intr(|| getrandom(&mut bytes[..], GetRandomFlags::empty()))
        .syscall("getrandom", || format!("{N} bytes"))?;
    Ok(hex::encode(bytes))
}
