//! Names that nobody else makes up.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` random bytes as hexadecimal digits. Up to 256 come at once (getrandom(2)).
pub(crate) fn hex<const N: usize>() -> io::Result<String> {
    const { assert!(N <= 256) };
    let mut bytes = [0_u8; N];
    rustix::io::retry_on_intr(|| getrandom(&mut bytes[..], GetRandomFlags::empty()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
