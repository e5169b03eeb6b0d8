//! The fields of one 512-byte header block, read as Go's `archive/tar` reads them.

use tar::Header;

use super::Refusal;

pub(super) const BLOCK: usize = 512;

/// Which of the header layouts a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    /// Jörg Schilling's: a shorter prefix, with access and change time behind it.
    Star,
    Gnu,
}

/// A header whose checksum is right.
pub(super) struct Block<'a> {
    header: &'a Header,
    format: Format,
}

impl<'a> Block<'a> {
    pub(super) fn new(bytes: &'a [u8; BLOCK]) -> Result<Self, Refusal> {
        let header = Header::from_byte_slice(bytes);
        check_sum(bytes, &header.as_old().cksum)?;
        let format = match (bytes.get(257..265), bytes.get(508..)) {
            (Some(b"ustar\x0000"), Some(b"tar\0")) => Format::Star,
            (Some([b'u', b's', b't', b'a', b'r', 0, ..]), _) => Format::Ustar,
            (Some(b"ustar  \0"), _) => Format::Gnu,
            _ => Format::V7,
        };
        if format == Format::Star && text(header_prefix(bytes)).len() > STAR_PREFIX {
            return Err(Refusal::Because("the times in its header continue its name"));
        }
        Ok(Self { header, format })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.header.as_old().linkflag.first().copied().unwrap_or_default()
    }

    /// Prefix and name joined.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.header.as_old().name);
        let prefix = self.prefix();
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Whether there is a prefix and nothing behind it: no writer splits a name so, and readers see different things in it.
    pub(super) fn is_all_prefix(&self) -> bool {
        !self.prefix().is_empty() && text(&self.header.as_old().name).is_empty()
    }

    fn prefix(&self) -> &[u8] {
        let ustar = header_prefix(self.header.as_bytes());
        match self.format {
            Format::V7 => &[],
            Format::Ustar => text(ustar),
            Format::Star => text(ustar.get(..STAR_PREFIX).unwrap_or_default()),
            // Go before 1.8 and others wrote a ustar prefix under GNU magic, where GNU has times.
            Format::Gnu => {
                let time =
                    |field: Option<&[u8]>| field.is_none_or(|field| field.starts_with(&[0]) || signed(field).is_some());
                let is_prefix = !(time(ustar.get(..12)) && time(ustar.get(12..24)));
                if is_prefix && text(ustar).is_ascii() { text(ustar) } else { &[] }
            }
        }
    }

    pub(super) fn link_name(&self) -> &[u8] {
        text(&self.header.as_old().linkname)
    }

    pub(super) fn size(&self) -> Result<u64, Refusal> {
        unsigned(&self.header.as_old().size, "the size is not a number")
    }

    pub(super) fn mode(&self) -> Result<u32, Refusal> {
        let mode = signed(&self.header.as_old().mode).ok_or(Refusal::Because("the mode is not a number"))?;
        // The file type that some writers put above the permission bits is known from the type flag.
        Ok((mode & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, Refusal> {
        id(unsigned(&self.header.as_old().uid, UID)?, UID)
    }

    pub(super) fn gid(&self) -> Result<u32, Refusal> {
        id(unsigned(&self.header.as_old().gid, GID)?, GID)
    }

    pub(super) fn mtime(&self) -> Result<i64, Refusal> {
        signed(&self.header.as_old().mtime).ok_or(Refusal::Because("the modification time is not a number"))
    }

    /// Major and minor number. The v7 layout has none.
    pub(super) fn device(&self) -> Result<super::entry::Device, Refusal> {
        let bytes = self.header.as_bytes();
        let field = |range: std::ops::Range<usize>, what| -> Result<u32, Refusal> {
            if self.format == Format::V7 {
                return Ok(0);
            }
            let number = unsigned(bytes.get(range).unwrap_or_default(), what)?;
            u32::try_from(number).map_err(|_| Refusal::Because(what))
        };
        let device = super::entry::Device {
            major: field(329..337, "the major device number is out of range")?,
            minor: field(337..345, "the minor device number is out of range")?,
        };
        // MINORBITS in the kernel's kdev_t.h: 12 bits of major, 20 of minor.
        if device.major >= 1 << 12 || device.minor >= 1 << 20 {
            return Err(Refusal::Because("the device number is out of range"));
        }
        Ok(device)
    }

    /// The old GNU sparse fields; `None` where the block is not in GNU's layout.
    pub(super) fn gnu(&self) -> Option<&tar::GnuHeader> {
        self.header.as_gnu()
    }
}

/// Where ustar has the prefix of the name.
fn header_prefix(bytes: &[u8; BLOCK]) -> &[u8] {
    bytes.get(345..500).unwrap_or_default()
}

/// The length of the prefix in star's headers, where other readers look for ustar's.
const STAR_PREFIX: usize = 131;

const UID: &str = "the user ID is out of range";
const GID: &str = "the group ID is out of range";

/// An owner's ID: 2³²−1 is no ID but `chown(2)`'s word for "leave it".
pub(super) fn id(number: u64, what: &'static str) -> Result<u32, Refusal> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Refusal::Because(what)),
    }
}

/// The sum of all bytes with the checksum field as spaces; historic writers summed signed bytes.
fn check_sum(bytes: &[u8; BLOCK], field: &[u8]) -> Result<(), Refusal> {
    let bad = Refusal::Because("the header's checksum is wrong");
    let stated = signed(field).ok_or(bad.clone())?;
    let counted = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
    let sum: i64 = bytes.iter().enumerate().map(|(index, byte)| i64::from(counted(index, *byte))).sum();
    let historic: i64 = bytes.iter().enumerate().map(|(index, byte)| i64::from(counted(index, *byte) as i8)).sum();
    if stated == sum || stated == historic { Ok(()) } else { Err(bad) }
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(super) fn unsigned(field: &[u8], what: &'static str) -> Result<u64, Refusal> {
    signed(field).and_then(|number| u64::try_from(number).ok()).ok_or(Refusal::Because(what))
}

/// Octal digits between spaces and NULs, or GNU's base-256: two's complement after a set top bit.
pub(super) fn signed(field: &[u8]) -> Option<i64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // Bit 6 of the first byte is the sign.
            let negative = first & 0x40 != 0;
            let top = if negative { i64::from(*first) - 0x100 } else { i64::from(first & 0x7f) };
            rest.iter().try_fold(top, |number, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)))
        }
        _ => {
            let number = text(field);
            let spaces = number.iter().take_while(|byte| **byte == b' ').count();
            let digits = number.get(spaces..)?.trim_ascii_end();
            // Digits behind a NUL count for Go and for nobody else.
            let behind = field.get(number.len()..)?;
            if digits.is_empty() && behind.iter().any(|byte| !matches!(byte, b' ' | 0)) {
                return None;
            }
            digits.iter().try_fold(0_i64, |number, digit| match digit {
                b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}
