//! `--cap-add`, `--cap-drop`, `--privileged`, `--security-opt`: from what was typed to the library's words.

use std::path::Path;

#[cfg(not(feature = "seccomp"))]
use layermount::ErrorKind;
use layermount::{Command, Furnish};

use crate::args::{Security, SecurityOption};
use crate::failure::{Failure, Result};

/// Says what the program may do, and what it sees of the machine.
pub(super) fn apply(args: &Security, command: &mut Command) -> Result<Furnish> {
    let mut furnish = Furnish::default();
    if args.privileged {
        command.privileged();
        furnish = furnish.privileged();
    }
    command.capabilities(args.capabilities());
    for option in &args.options {
        match option {
            SecurityOption::NoNewPrivileges(on) => {
                command.no_new_privileges(*on);
            }
            SecurityOption::AsIs => {}
            SecurityOption::UnmaskAll => furnish = furnish.masks(false),
            SecurityOption::Unmask(paths) => furnish = paths.iter().fold(furnish, Furnish::unmask),
            SecurityOption::Seccomp(file) => seccomp_of_file(file, command)?,
            SecurityOption::SeccompUnconfined => without_seccomp(command),
        }
    }
    Ok(furnish)
}

#[cfg(feature = "seccomp")]
fn seccomp_of_file(file: &Path, command: &mut Command) -> Result<()> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::io(format!("cannot read the profile {shown}"), error))?;
    command.seccomp(layermount::Seccomp::from_json(&text)?);
    Ok(())
}

#[cfg(feature = "seccomp")]
fn without_seccomp(command: &mut Command) {
    command.seccomp(layermount::Seccomp::unconfined());
}

#[cfg(not(feature = "seccomp"))]
fn seccomp_of_file(_: &Path, _: &mut Command) -> Result<()> {
    Err(Failure::new(ErrorKind::Unsupported, "this build of layermount has no seccomp filters"))
}

#[cfg(not(feature = "seccomp"))]
fn without_seccomp(_: &mut Command) {}
