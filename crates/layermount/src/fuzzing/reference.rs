//! References.

use super::assert_printable;
use crate::error::Error;
use crate::reference::{ImageName, Reference};

/// What parses can be printed, and what is printed parses to the same. Names keep their meaning in the short spelling, and
/// when they are taken apart and put together again. A refusal can be printed on a terminal, and is short.
pub fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match text.parse::<Reference>() {
        Ok(reference) => {
            let printed = reference.to_string();
            assert_eq!(
                printed.parse::<Reference>().as_ref().ok(),
                Some(&reference),
                "{text:?} is printed as {printed:?}"
            );
            if let Reference::Name(name) = &reference {
                assert_eq!(name.familiar().parse::<Reference>().ok(), Some(reference.clone()), "{text:?}");
            }
        }
        Err(error) => refused(error.into()),
    }
    match text.parse::<ImageName>() {
        Ok(name) => {
            assert!(name.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
            assert_eq!(name.to_string().parse::<ImageName>().ok().as_ref(), Some(&name), "{text:?}");
            let digest = name.digest().cloned();
            let again = ImageName::new(name.registry(), name.repository(), name.tag(), digest);
            assert_eq!(again.ok().as_ref(), Some(&name), "{text:?}");
        }
        Err(error) => refused(error.into()),
    }
}

fn refused(error: Error) {
    assert_printable(&error);
    assert!(format!("{error:#}").len() < 8000, "{error:#}");
}
