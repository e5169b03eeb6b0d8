//! Paths of the host in a file: relative to the directory that the file is in.
//!
//! Which options have such paths, their hints for completion say (`ValueHint`). In some of them, a path is a part of the value.

use std::path::Path;

use clap::{Arg, ValueHint};

/// The same value for a command line.
pub(super) fn rebased(arg: &Arg, text: &str, file: &Path) -> String {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    let Some(directory) = directory else { return text.to_owned() };
    let joined = |path: &str| directory.join(path).to_string_lossy().into_owned();
    let is_path = |path: &str| path.contains('/') || path == "." || path == "..";
    match (arg.get_long().unwrap_or_default(), arg.get_value_hint()) {
        // What has no slash is a name.
        ("volume", _) => match text.split_once(':') {
            Some((source, rest)) if is_path(source) => format!("{}:{rest}", joined(source)),
            _ => text.to_owned(),
        },
        ("bind" | "bind-ro", _) => match text.split_once(':') {
            Some((source, rest)) => format!("{}:{rest}", joined(source)),
            // Inside it is at the same path, which must be a whole one.
            None => text.to_owned(),
        },
        ("network", _) => match text.split_once(':') {
            Some(("ns", path)) if !path.is_empty() => format!("ns:{}", joined(path)),
            _ => text.to_owned(),
        },
        ("listen", _) => match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => format!("unix:{}", joined(path)),
            _ => text.to_owned(),
        },
        ("security-opt", _) => match text.split_once(['=', ':']) {
            Some(("seccomp", path)) if path != "unconfined" && !path.is_empty() => format!("seccomp={}", joined(path)),
            _ => text.to_owned(),
        },
        ("mount", _) => {
            let part = |part: &str| match part.split_once('=') {
                Some((name @ ("source" | "src"), path)) if is_path(path) => match joined(path) {
                    // Without a dot it would be a name.
                    path if path.starts_with(['/', '.']) => format!("{name}={path}"),
                    path => format!("{name}=./{path}"),
                },
                _ => part.to_owned(),
            };
            text.split(',').map(part).collect::<Vec<_>>().join(",")
        }
        (_, ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath | ValueHint::ExecutablePath)
            if !text.is_empty() =>
        {
            joined(text)
        }
        (_, ValueHint::CommandName) if is_path(text) => joined(text),
        _ => text.to_owned(),
    }
}
