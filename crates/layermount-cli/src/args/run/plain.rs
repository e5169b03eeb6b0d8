//! The commonest command lines, read without clap.
//!
//! clap takes longer to make its arguments than `run` takes for its own work. What is understood here is understood as clap does,
//! down to its last field, and everything else is left to clap: an option that is not in the list or written in another way, a value
//! that is refused, a variable that stands for an option.
//!
//! So an option that is new needs nothing here to work. What it could break, tests find: a default that is not the field's
//! `Default`, and a variable that stands for it.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;

use super::super::value::absolute_path;
use super::super::{Cli, Command, Global};
use super::RunArgs;

/// All variables that stand for an option of `run`.
const VARIABLES: [&str; 2] = ["LAYERMOUNT_BACKING", "LAYERMOUNT_DURABLE"];

impl RunArgs {
    /// Reads a command line, of which the first word is the program's own name.
    pub(crate) fn plain(words: &[OsString]) -> Option<Cli> {
        let [_, run, words @ ..] = words else { return None };
        if run != "run" || VARIABLES.into_iter().any(|name| std::env::var_os(name).is_some()) {
            return None;
        }
        let (mut args, mut global) = (Self::default(), Global::default());
        let mut words = words.iter();
        let image = loop {
            let word = words.next()?;
            let mut value = || words.next().filter(|value| !starts_with_dash(value));
            match word.to_str()? {
                "-e" | "--env" => args.env.push(parsed(value()?)?),
                "-v" | "--volume" => args.volumes.push(parsed(value()?)?),
                "-u" | "--user" => once(&mut args.user, parsed(value()?)?)?,
                "-w" | "--workdir" => once(&mut args.workdir, absolute_path(value()?.to_str()?).ok()?)?,
                "--entrypoint" => once(&mut args.entrypoint, parsed(value()?)?)?,
                "--store" => once(&mut global.store, value().filter(|path| !path.is_empty())?.into())?,
                "--rm" => flag(&mut args.rm)?,
                "--read-only" => flag(&mut args.read_only)?,
                "-i" | "--interactive" => flag(&mut args.streams.interactive)?,
                "-q" | "--quiet" => flag(&mut global.quiet)?,
                option if option.starts_with('-') => return None,
                _ => break word,
            }
        };
        args.words = std::iter::once(image).chain(words).cloned().collect();
        Some(Cli { global, command: Command::Run(Box::new(args)) })
    }
}

fn starts_with_dash(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

fn parsed<T: FromStr>(value: &OsStr) -> Option<T> {
    value.to_str()?.parse().ok()
}

/// What is given twice is a mistake.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn flag(place: &mut bool) -> Option<()> {
    (!std::mem::replace(place, true)).then_some(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        ["layermount"].into_iter().chain(line.split(' ')).map(|word| word.trim_matches('\'').into()).collect()
    }

    /// Every line of up to six of these words is read as clap reads it, or left to clap.
    #[test]
    fn clap_reads_it_the_same() {
        const WORDS: [&str; 24] = [
            "-e",
            "A=b",
            "-v",
            "./a:/b:ro",
            "-u",
            "0",
            "-w",
            "/x",
            "--entrypoint",
            "''",
            "--store",
            "--rm",
            "--read-only",
            "-i",
            "-t",
            "-it",
            "-q",
            "image",
            "--",
            "-",
            "--verbose",
            "--user=0",
            "-x",
            "sh",
        ];
        let (mut plain, mut state) = (0, 1_u64);
        for _ in 0..4000 {
            let mut next = |below: usize| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                usize::try_from(state >> 33).unwrap() % below
            };
            let line: Vec<_> = (0..next(7)).map(|_| WORDS[next(WORDS.len())]).collect();
            let line = words(&format!("run {}", line.join(" ")));
            let Some(read) = RunArgs::plain(&line) else { continue };
            let whole = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            assert_eq!(format!("{read:?}"), format!("{whole:?}"), "{line:?}");
            plain += 1;
        }
        assert!(plain > 300, "{plain}");
    }

    #[test]
    fn every_variable_is_known() {
        let mut whole = Cli::command();
        whole.build();
        let run = whole.find_subcommand("run").unwrap();
        let known: Vec<_> = run.get_arguments().filter_map(|argument| argument.get_env()).collect();
        assert_eq!(known, VARIABLES);
    }

    #[test]
    fn common_lines_are_read() {
        for line in [
            "run image",
            "run --rm -i -e A=b -e C --env D=e -v ./a:/b -u 1:2 -w /x --store s image -- sh -c true",
            "run --entrypoint /bin/sh image -c x --rm",
        ] {
            let read = RunArgs::plain(&words(line)).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(format!("{read:?}"), format!("{:?}", Cli::try_parse_from(words(line)).unwrap()), "{line}");
        }
    }
}
