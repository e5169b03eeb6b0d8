//! GNU tar, as `tar --list --verbose` prints what it sees.
//!
//! Where it differs on purpose:
//!
//! 1. An entry that is neither file nor hard link has data to it if the header gives it a size, and so has anything for which PAX
//!    does. Go, POSIX and this crate say that only files have data.
//! 2. It knows no name prefix under GNU's magic.
//! 3. A v7 directory is told by the slash behind its name, and of the name `/` it takes none away: a file.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::super::seen::{Seen, size_of_data};
use super::{Differs, Listed, Listing, without_slashes};
use crate::layer::Kind;

pub(super) fn differs(seen: &Seen, archive: &[u8]) -> Differs {
    let headers = seen.headers(archive);
    let pax_size = headers.extended.iter().any(|(flag, data)| {
        *flag == b'x' && tar_core::PaxExtensions::new(data).flatten().any(|record| record.key_bytes() == b"size")
    });
    let size = size_of_data(headers.own) != 0;
    match &seen.entry.kind {
        Kind::File { .. } => {}
        Kind::HardLink(_) if !pax_size => {}
        _ if size || pax_size => return Differs::FromHere,
        _ => {}
    }
    if headers.own.as_bytes()[156] == 0 && without_slashes(&seen.entry.name).is_empty() {
        return Differs::FromHere;
    }
    let is_gnu = headers.own.as_bytes()[257..263] == *b"ustar ";
    if is_gnu && !headers.prefix().is_empty() { Differs::Name } else { Differs::No }
}

pub(super) fn list(archive: &[u8]) -> io::Result<Listing> {
    let input = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut input = File::from(input);
    input.write_all(archive)?;
    rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0))?;
    let output = Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner", "--quoting-style=c", "--absolute-names", "--file=-"])
        .env("LC_ALL", "C")
        .env_remove("TAR_OPTIONS")
        .stdin(Stdio::from(input))
        .output()?;
    let mut entries = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let entry = parse(line).unwrap_or_else(|| panic!("GNU tar prints {:?}", String::from_utf8_lossy(line)));
        entries.push(entry);
    }
    Ok(Listing { entries, whole: output.status.success() })
}

/// `-rw-r--r-- 0/0  5 2024-01-01 00:00 "name"`, and ` -> "target"` or ` link to "target"` behind it.
fn parse(line: &[u8]) -> Option<Listed> {
    let quote = line.iter().position(|byte| *byte == b'"')?;
    let fields: Vec<&str> = std::str::from_utf8(&line[..quote]).ok()?.split_whitespace().collect();
    let kind = match line.first()? {
        // A contiguous file.
        b'C' => b'-',
        kind => *kind,
    };
    let size = if kind == b'-' { fields.get(2)?.parse().ok()? } else { 0 };
    let (name, rest) = unquote(&line[quote..])?;
    let link = match rest.strip_prefix(b" -> ").or_else(|| rest.strip_prefix(b" link to ")) {
        Some(rest) => unquote(rest)?.0,
        None => Vec::new(),
    };
    Some(Listed { kind, name: without_slashes(&name).to_vec(), link, size })
}

/// A string as C has them, and what follows it.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = text.strip_prefix(b"\"")?;
    let mut bytes = Vec::new();
    loop {
        let (first, rest) = text.split_first()?;
        text = rest;
        match first {
            b'"' => return Some((bytes, text)),
            b'\\' => {
                let (escaped, rest) = text.split_first()?;
                let (byte, rest) = match escaped {
                    b'a' => (7, rest),
                    b'b' => (8, rest),
                    b'f' => (12, rest),
                    b'n' => (b'\n', rest),
                    b'r' => (b'\r', rest),
                    b't' => (b'\t', rest),
                    b'v' => (11, rest),
                    b'0'..=b'3' => {
                        let digits = std::str::from_utf8(text.get(..3)?).ok()?;
                        (u8::from_str_radix(digits, 8).ok()?, text.get(3..)?)
                    }
                    other => (*other, rest),
                };
                bytes.push(byte);
                text = rest;
            }
            byte => bytes.push(*byte),
        }
    }
}
