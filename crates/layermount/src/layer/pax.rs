//! PAX extended headers: POSIX.1-2017, *pax*, "pax Extended Header".
//!
//! A record is `LENGTH KEY=VALUE\n`, and only its length says where it ends: values may hold newlines.

use super::header::id;
use super::{LayerLimits, Refusal};
use crate::limits::Limit;

/// What one extended header says about the entry that follows it. For repeated keys the last record counts.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// GNU tar's `GNU.sparse.*` records (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) present: bool,
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.realsize` (1.0) or `GNU.sparse.size` (0.0 and 0.1).
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn: from `map` (0.1), or gathered from repeated `offset` and `numbytes` (0.0).
    pub(super) numbers: Vec<u64>,
    pub(super) count: Option<u64>,
}

const MALFORMED: Refusal = Refusal::Because("a PAX record is malformed");

impl Pax {
    pub(super) fn parse(mut bytes: &[u8], limits: &LayerLimits) -> Result<Self, Refusal> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or(MALFORMED)?;
            let length = decimal(bytes.get(..space).unwrap_or_default(), MALFORMED)?;
            let length = usize::try_from(length).map_err(|_| MALFORMED)?;
            let (record, rest) = bytes.split_at_checked(length).ok_or(MALFORMED)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(MALFORMED)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
            let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            if key.is_empty() || key.contains(&0) {
                return Err(MALFORMED);
            }
            pax.take(key, value, limits)?;
            bytes = rest;
        }
        Ok(pax)
    }

    /// Judges a global header. What it says counts for nothing, as in Go; but GNU tar and others apply its records to every
    /// entry, which would then have another name or end elsewhere.
    pub(super) fn check_global(bytes: &[u8], limits: &LayerLimits) -> Result<(), Refusal> {
        let pax = Self::parse(bytes, limits)?;
        if pax.path.is_some() || pax.link_path.is_some() || pax.size.is_some() || pax.sparse.present {
            return Err(Refusal::Because("a global header gives every entry a name or size"));
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8], limits: &LayerLimits) -> Result<(), Refusal> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.take_xattr(name, value, limits);
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value, limits);
        }
        // An empty owner or time takes back what an earlier record said; the header's own field counts again. Of empty names
        // and sizes readers think differently.
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link_path = Some(name(value)?),
            b"size" => self.size = Some(decimal(value, Refusal::Because("the PAX size is not a number"))?),
            b"uid" => self.uid = owner(value, "the PAX user ID is out of range")?,
            b"gid" => self.gid = owner(value, "the PAX group ID is out of range")?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            _ => {}
        }
        Ok(())
    }

    fn take_xattr(&mut self, name: &[u8], value: &[u8], limits: &LayerLimits) -> Result<(), Refusal> {
        if value.len() > limits.xattr_bytes {
            return Err(Refusal::Limit { what: Limit::XattrBytes, limit: limits.xattr_bytes as u64 });
        }
        // XATTR_NAME_MAX
        if name.is_empty() || name.len() > 255 {
            return Err(Refusal::Because("an xattr's name is empty or too long"));
        }
        self.xattrs.retain(|(earlier, _)| earlier != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        if self.xattrs.len() > limits.xattrs {
            return Err(Refusal::Limit { what: Limit::Xattrs, limit: limits.xattrs as u64 });
        }
        Ok(())
    }
}

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8], limits: &LayerLimits) -> Result<(), Refusal> {
        const WHAT: &str = "a GNU.sparse record is not a number";
        const ORDER: Refusal = Refusal::Because("GNU.sparse.offset and GNU.sparse.numbytes do not alternate");
        self.present = true;
        match key {
            b"major" => once(&mut self.version.0, decimal(value, Refusal::Because(WHAT))?)?,
            b"minor" => once(&mut self.version.1, decimal(value, Refusal::Because(WHAT))?)?,
            b"name" => self.name = Some(name(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value, Refusal::Because(WHAT))?),
            b"numblocks" => self.count = Some(decimal(value, Refusal::Because(WHAT))?),
            b"offset" if self.numbers.len().is_multiple_of(2) => {
                self.numbers.push(decimal(value, Refusal::Because(WHAT))?)
            }
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => {
                self.numbers.push(decimal(value, Refusal::Because(WHAT))?)
            }
            b"offset" | b"numbytes" => return Err(ORDER),
            b"map" => {
                self.numbers.clear();
                for piece in value.split(|byte| *byte == b',').filter(|_| !value.is_empty()) {
                    self.numbers.push(decimal(piece, Refusal::Because(WHAT))?);
                    check_regions(self.numbers.len() / 2, limits)?;
                }
            }
            _ => return Err(Refusal::Because("an unknown GNU.sparse record")),
        }
        check_regions(self.numbers.len() / 2, limits)
    }
}

pub(super) fn check_regions(count: usize, limits: &LayerLimits) -> Result<(), Refusal> {
    if count > limits.sparse_regions {
        return Err(Refusal::Limit { what: Limit::SparseRegions, limit: limits.sparse_regions as u64 });
    }
    Ok(())
}

fn name(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    if value.contains(&0) {
        return Err(Refusal::Because("a PAX name has a NUL byte"));
    }
    if value.is_empty() {
        return Err(Refusal::Because("a PAX name is empty"));
    }
    Ok(value.to_vec())
}

/// The version decides where the map is: given twice, readers would look in two places.
fn once(place: &mut Option<u64>, value: u64) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Because("a GNU.sparse version is given twice")),
    }
}

fn number(value: &[u8], what: &'static str) -> Result<Option<u64>, Refusal> {
    if value.is_empty() { Ok(None) } else { decimal(value, Refusal::Because(what)).map(Some) }
}

fn owner(value: &[u8], what: &'static str) -> Result<Option<u32>, Refusal> {
    number(value, what)?.map(|number| id(number, what)).transpose()
}

/// Digits only: no sign, no space, and within `i64` as every other reader holds it.
pub(super) fn decimal(digits: &[u8], refusal: Refusal) -> Result<u64, Refusal> {
    let number = digits.iter().try_fold(0_i64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    });
    match number {
        Some(number) if !digits.is_empty() => u64::try_from(number).map_err(|_| refusal),
        _ => Err(refusal),
    }
}

/// `[-]SECONDS[.FRACTION]`; the fraction is cut at nanoseconds, and of a negative time counts away from zero.
fn time(value: &[u8]) -> Result<(i64, u32), Refusal> {
    const BAD: Refusal = Refusal::Because("the PAX modification time is not a number");
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let mut halves = digits.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(halves.next().unwrap_or_default(), BAD)?;
    let seconds = i64::try_from(seconds).map_err(|_| BAD)?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let digit = |place: usize| u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, place| nanos * 10 + digit(place));
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length = length.to_string().len() + body.len();
        }
        format!("{length}{body}").into_bytes()
    }

    fn parse(bytes: &[u8]) -> Result<Pax, Refusal> {
        Pax::parse(bytes, &LayerLimits::default())
    }

    #[test]
    fn only_the_length_ends_a_record() {
        let bytes = record("SCHILY.xattr.user.a", "x\n22 linkpath=/etc/evil\n");
        let pax = parse(&bytes).unwrap();
        assert_eq!(pax.link_path, None);
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"x\n22 linkpath=/etc/evil\n".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"30 path=short\n"[..],
            b"12 path=ab",
            b"11 path=abc\n",
            b"0 path=a\n",
            b"3 =\n",
            b" 9 path=a\n",
            b"+9 path=a\n",
            b"\0\0\0",
            b"99999999999999999999 path=a\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        for value in ["+2", "-2", "0x2", " 2", "2.0", "9223372036854775808"] {
            assert!(parse(&record("size", value)).is_err(), "{value}");
        }
        assert!(parse(&record("path", "a\0b")).is_err());
        assert!(parse(&record("uid", "4294967295")).is_err());
        assert_eq!(parse(&record("uid", "4294967294")).unwrap().uid, Some(4_294_967_294));
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.000000001", (-1, 999_999_999)),
            ("1.1234567899", (1, 123_456_789)),
            ("1.", (1, 0)),
        ] {
            assert_eq!(time(text.as_bytes()), Ok(expected), "{text}");
        }
        for bad in ["", "-", ".5", "1.x", "--1", "1e3", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
