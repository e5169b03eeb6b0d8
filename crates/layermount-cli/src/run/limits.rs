//! `--memory`, `--cpus`, `--ulimit` and their like: from what was typed to the library's words, and what is said of a program that
//! ran out of memory.

use layermount::{Child, Command};

use crate::args::Limited;
use crate::report::Report;
use crate::text;

/// Says how much the program may use.
pub(super) fn apply(args: &Limited, command: &mut Command) {
    command.resources(args.resources());
    for limit in &args.rlimits {
        command.rlimit(*limit);
    }
}

/// A program that was killed for its memory cannot say so itself, and its status could mean anything.
pub(super) fn explain_end(args: &Limited, child: &Child, report: &Report) {
    let killed = match child.oom_kills() {
        0 => return,
        1 => "a process of the program was".to_owned(),
        more => format!("{more} processes of the program were"),
    };
    let limit = args.memory().map_or_else(|| "its cgroup's".to_owned(), text::bytes);
    report.warn(&format!("{killed} killed for want of memory (limit: {limit})"));
}
