//! From words to [`Cli`], quickly for `run`.
//!
//! clap makes every subcommand with all its arguments before it looks at the first word, which takes longer than what `run`
//! has to do for an image that is ready. A command line that begins with `run` is therefore read without clap, if it is of the
//! commonest kind, or with that one subcommand alone. All that is not plainly right, questions for help among it, is read once more
//! with the whole, so that nobody sees a difference.

use std::ffi::OsString;

use clap::{Args, FromArgMatches, Parser};

use crate::args::{Cli, Command, Global, RunArgs};

/// Reads a command line, of which the first word is the program's own name.
pub(crate) fn command_line(words: &[OsString]) -> Result<Cli, clap::Error> {
    RunArgs::plain(words).or_else(|| run_alone(words)).map_or_else(|| Cli::try_parse_from(words), Ok)
}

fn run_alone(words: &[OsString]) -> Option<Cli> {
    if words.get(1)? != "run" {
        return None;
    }
    let run = RunArgs::augment_args(clap::Command::new("run"));
    let matches =
        Global::augment_args(clap::Command::new("layermount")).subcommand(run).try_get_matches_from(words).ok()?;
    let (_, of_run) = matches.subcommand()?;
    let command = Command::Run(Box::new(RunArgs::from_arg_matches(of_run).ok()?));
    Some(Cli { global: Global::from_arg_matches(&matches).ok()?, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_read_as_with_the_whole() {
        for line in [
            "run image",
            "run image -- sh -c --help",
            "run --verbose image",
            "run -q image --verbose",
            "run -v ./a:/b -v /c:/d:ro --store s -e A=b -e C image -v x",
            "run --log-format json --backing dir --limit tar-bytes=1g --durable image",
            "run -it --rm -h name --pid host --net host -u 0:0 -w /x image",
        ] {
            let words: Vec<OsString> = ["layermount"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            let whole = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
            let alone = run_alone(&words).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(format!("{alone:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn all_else_is_left_to_the_whole() {
        for line in ["", "pull image", "-v run image", "run", "run --help", "run --pid x image", "run --nonsense image"]
        {
            let words: Vec<OsString> = ["layermount"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            assert!(run_alone(&words).is_none(), "{line}");
        }
    }
}
