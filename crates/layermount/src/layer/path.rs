//! Names in archives: cleaned, split, and refused where they lead out of the layer.
//!
//! Leading slashes, empty and `.` components mean nothing; `..` is resolved in the text, as Go's `path.Clean` does before any
//! engine looks at the name, and refused where it would leave the root.

use super::{LayerLimits, Refusal};
use crate::limits::Limit;

/// One component of a path.
pub(crate) type Name = Box<[u8]>;

/// The longest file name on Linux (`NAME_MAX`).
pub(super) const NAME_MAX: usize = 255;

/// The components of an entry's name; none for the root.
pub(super) fn clean<'a>(name: &'a [u8], limits: &LayerLimits) -> Result<Vec<&'a [u8]>, Refusal> {
    if name.contains(&0) {
        return Err(Refusal::Because("its name has a NUL byte"));
    }
    if name.len() > limits.path_bytes {
        return Err(Refusal::Limit { what: Limit::PathBytes, limit: limits.path_bytes as u64 });
    }
    let mut components = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop().ok_or(Refusal::Because("its name leads out of the layer"))?),
            component => components.push(component),
        }
    }
    if components.len() > limits.path_depth {
        return Err(Refusal::Limit { what: Limit::PathDepth, limit: limits.path_depth as u64 });
    }
    Ok(components)
}

pub(super) fn check_component(component: &[u8]) -> Result<(), Refusal> {
    if component.len() > NAME_MAX {
        return Err(Refusal::Because("its name has a component of more than 255 bytes"));
    }
    Ok(())
}
