//! The tar reader beside GNU tar and Python's tarfile.

mod gnu_tar;
mod python;

use super::seen::{self, Seen};
use crate::layer::Kind;

/// One entry as a peer lists it: type as in `ls -l`, name without slashes at its end, target of a link, size of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    kind: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    size: u64,
}

/// What a peer says to an archive.
#[derive(Debug)]
struct Listing {
    entries: Vec<Listed>,
    /// The peer came to the archive's end, and complained of nothing.
    whole: bool,
}

/// Where a peer reads an entry differently on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    No,
    /// The name is another one.
    Name,
    /// All that follows is.
    FromHere,
}

/// What this crate's reader takes has the same names, types, targets and sizes to GNU tar and to Python's tarfile. A peer may
/// refuse. Python stops there, and what it has listed so far is compared; GNU tar goes on as best it can, so that nothing is
/// compared of an archive that it has complained of.
///
/// Where they differ on purpose is said at [`gnu_tar`] and [`python`].
///
/// # Panics
///
/// Also where a peer cannot be started.
pub fn tar_peers(archive: &[u8]) {
    let Ok(ours) = seen::read(archive) else { return };
    let gnu = gnu_tar::list(archive).expect("GNU tar is run");
    if gnu.whole {
        compare("GNU tar", archive, &ours, &gnu, gnu_tar::differs);
    }
    let python = python::list(archive).expect("Python is run");
    compare("Python", archive, &ours, &python, python::differs);
}

/// Whether the peers are on this machine.
#[cfg(test)]
pub(super) fn are_here() -> std::io::Result<()> {
    gnu_tar::list(&[])?;
    python::list(&[]).map(drop)
}

fn compare(peer: &str, archive: &[u8], ours: &[Seen], theirs: &Listing, differs: fn(&Seen, &[u8]) -> Differs) {
    let mut listed = theirs.entries.iter();
    for seen in ours {
        let differs = differs(seen, archive);
        if differs == Differs::FromHere {
            return;
        }
        let Some(theirs_of_it) = listed.next() else {
            assert!(!theirs.whole, "{peer} does not see {seen:?}");
            return;
        };
        let mut expected = list(seen);
        if differs == Differs::Name {
            expected.name.clone_from(&theirs_of_it.name);
        }
        assert_eq!(expected, *theirs_of_it, "{peer}");
    }
    assert_eq!(listed.next(), None, "{peer} sees more");
}

fn list(seen: &Seen) -> Listed {
    let (kind, link, size) = match &seen.entry.kind {
        Kind::File { size, .. } => (b'-', &[][..], *size),
        Kind::Directory => (b'd', &[][..], 0),
        Kind::Symlink(target) => (b'l', target.as_slice(), 0),
        Kind::HardLink(target) => (b'h', target.as_slice(), 0),
        Kind::CharDevice(_) => (b'c', &[][..], 0),
        Kind::BlockDevice(_) => (b'b', &[][..], 0),
        Kind::Fifo => (b'p', &[][..], 0),
    };
    Listed { kind, name: without_slashes(&seen.entry.name).to_vec(), link: link.to_vec(), size }
}

fn without_slashes(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &name[..end]
}
