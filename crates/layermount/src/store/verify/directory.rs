//! A directory against the [listing] that was made of it.
//!
//! The names in the listing are compared with what lies there now, then what lies there with the names. The listing is read line
//! by line, and of a name that was compared only a hash is kept, so that the layer's size does not matter.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::BufReader;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result, SyscallContext, SyscallError};
use crate::unpack::listing::{self, ReadListingError};
use crate::unpack::{FileContent, checksum};

use super::super::entry::{Entry, LISTING, listing_checksum, open_file};
use super::super::walk::{Seen, open, walk};
use super::{BUFFER, DamageKind, Findings, Verified, is_ours};

/// Why a listing was not read to its end.
enum Stop {
    /// The listing is damaged.
    Listing(String),
    Failed(Error),
}

impl From<ReadListingError> for Stop {
    fn from(error: ReadListingError) -> Self {
        match error {
            ReadListingError::Read(source) => match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(errno) if is_ours(errno) => Self::Failed(SyscallError::new("read", LISTING, errno).into()),
                _ => Self::Listing(format!("its listing cannot be read: {source}")),
            },
            error => Self::Listing(error.to_string()),
        }
    }
}

pub(super) fn verify_directory(entry: &Entry, verified: &mut Verified) -> Result<Findings> {
    let mut comparison = Comparison { entry, verified, findings: Findings::default(), buffer: vec![0; BUFFER] };
    let hashes = RandomState::new();
    let mut listed: Vec<u64> = Vec::new();
    let read = open_listing(entry).and_then(|file| {
        listing::read(BufReader::new(file), |path, expected| {
            listed.push(hashes.hash_one(path));
            comparison.file(path, expected)
        })
    });
    let mut findings = comparison.findings;
    match read {
        Ok(()) => {}
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Listing(what)) => {
            findings.add("", DamageKind::Record, what);
            return Ok(findings);
        }
    }
    listed.sort_unstable();
    walk(entry.content(), &mut |found| {
        match found {
            Seen::Entry { path, stat, .. } if is_regular(stat) => {
                let path = listing::escape(path);
                if listed.binary_search(&hashes.hash_one(path.as_str())).is_err() {
                    findings.add(path, DamageKind::Extra, "was not in the layer");
                }
            }
            Seen::Entry { .. } => {}
            Seen::Unreadable { path, errno } if is_ours(errno) => {
                return Err(SyscallError::new("openat", listing::escape(path), errno).into());
            }
            // Closed to its owner, which is an ordinary user.
            Seen::Unreadable { errno: Errno::ACCESS, .. } => {}
            Seen::Unreadable { path, errno } => {
                findings.add(listing::escape(path), DamageKind::Unreadable, format!("cannot be read: {errno}"));
            }
        }
        Ok(())
    })?;
    Ok(findings)
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn open_listing(entry: &Entry) -> Result<File, Stop> {
    let failed = |error: SyscallError| match error.errno() {
        errno if is_ours(errno) => Stop::Failed(error.into()),
        _ => Stop::Listing(format!("its listing cannot be read: {error}")),
    };
    let directory = entry.directory().map_err(failed)?;
    if let Some(written) = entry.record.listing_checksum
        && listing_checksum(directory.as_fd()).map_err(failed)? != written
    {
        return Err(Stop::Listing("its listing is not what was written".to_owned()));
    }
    let file = open_file(directory.as_fd(), LISTING).syscall("openat", || LISTING.to_owned());
    Ok(File::from(file.map_err(failed)?))
}

/// The files of a listing against those of a tree.
struct Comparison<'a> {
    entry: &'a Entry,
    verified: &'a mut Verified,
    findings: Findings,
    buffer: Vec<u8>,
}

impl Comparison<'_> {
    fn file(&mut self, escaped: &str, expected: FileContent) -> Result<(), Stop> {
        let Some(path) = listing::unescape(escaped) else {
            return Err(Stop::Listing(format!("its listing has the malformed path {escaped}")));
        };
        self.verified.files += 1;
        match self.look(&path, expected) {
            Ok(None) => {}
            Ok(Some((kind, what))) => self.findings.add(escaped, kind, what),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.findings.add(escaped, DamageKind::Missing, "is missing");
            }
            Err(errno) if is_ours(errno) => {
                return Err(Stop::Failed(SyscallError::new("openat", escaped, errno).into()));
            }
            Err(Errno::ACCESS) => self.verified.closed += 1,
            Err(errno) => self.findings.add(escaped, DamageKind::Unreadable, format!("cannot be read: {errno}")),
        }
        Ok(())
    }

    fn look(&mut self, path: &[u8], expected: FileContent) -> rustix::io::Result<Option<(DamageKind, String)>> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = at.map_or((&[][..], path), |at| (&path[..at], &path[at + 1..]));
        let parent = open(self.entry.content(), parent)?;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_regular(&stat) {
            return Ok(Some((DamageKind::Type, "is not a regular file any more".to_owned())));
        }
        let FileContent { size, checksum: expected } = expected;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != size {
            return Ok(Some((DamageKind::Size, format!("has {found} bytes instead of {size}"))));
        }
        self.verified.bytes += size;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        let found = checksum::of_file(file.as_fd(), size, &mut self.buffer)?;
        let what = || format!("has the checksum {found:08x} instead of {expected:08x}");
        Ok((found != expected).then(|| (DamageKind::Content, what())))
    }
}
