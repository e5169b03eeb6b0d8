//! Names that say what a layer removes (OCI image specification, `layer.md`, "Whiteouts").

use super::Refusal;
use super::path::check_component;

/// What the last component of an entry's name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// An entry of its own.
    None,
    /// `.wh.NAME`: whatever lower layers have under this name is not there.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: nothing that lower layers have in this directory is there.
    Opaque,
    /// AUFS's own files (`.wh..wh.aufs`, `.wh..wh.plnk`…), and what lies in its directories.
    Aufs,
}

const PREFIX: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";

/// Judges the components of a cleaned name.
pub(super) fn mark<'a>(components: &[&'a [u8]]) -> Result<Mark<'a>, Refusal> {
    let Some((last, parents)) = components.split_last() else { return Ok(Mark::None) };
    if parents.iter().any(|parent| parent.starts_with(META)) {
        return Ok(Mark::Aufs);
    }
    for parent in parents {
        if parent.starts_with(PREFIX) {
            return Err(Refusal::Because("it lies in a directory with the name of a whiteout"));
        }
        check_component(parent)?;
    }
    if *last == b".wh..wh..opq" {
        return Ok(Mark::Opaque);
    }
    if last.starts_with(META) {
        return Ok(Mark::Aufs);
    }
    match last.strip_prefix(PREFIX) {
        Some(b"" | b"." | b"..") => Err(Refusal::Because("a whiteout of no name")),
        // The mark itself may be longer than a file name: nobody creates it.
        Some(name) => check_component(name).map(|()| Mark::Whiteout(name)),
        None => check_component(last).map(|()| Mark::None),
    }
}
