//! Names that nobody else makes up.

use std::fs::File;
use std::io::{self, Read as _};

/// `N` random bytes as hexadecimal digits.
pub(crate) fn hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
