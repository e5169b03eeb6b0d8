//! `--config FILE`: image, command and options of `run` and `bundle` out of a TOML file.
//!
//! A key is the long name of an option, or another name that it has. That is all taken from clap's description of the command line, so
//! that an option that is new is a key at once. What the file says becomes words of a command line, in front of those that were typed;
//! clap reads both together. A file is read when it was asked for, and nobody else pays for it.
//!
//! - An option that may be given several times is an array (or one value); what was typed comes after it. Where values are
//!   `KEY=VALUE`, a table will do, too.
//! - Any other option that was typed takes the place of the file's, and of those in the file that cannot go with it.
//! - `image` and `command` are the rest of the line. With an image in the file, all that is typed behind the options is the command.
//! - Paths of the host are relative to the directory of the file, as in Docker's compose files.

mod document;
mod paths;

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, Parser};

use crate::args::{Cli, Command, Global, RunArgs};
use crate::failure::Failure;
use document::{Document, Setting};

/// Why a file could not be used.
#[derive(Debug)]
pub(crate) enum Mistake {
    /// It is wrong in itself.
    File(Box<Failure>),
    /// Together with what was typed it makes no command line.
    Line(clap::Error),
}

impl From<Failure> for Mistake {
    fn from(failure: Failure) -> Self {
        Self::File(Box::new(failure))
    }
}

/// Adds what a file says, if one was named, to a command line that begins with the program's own name.
pub(crate) fn expand(cli: Cli, typed: &[OsString]) -> Result<Cli, Mistake> {
    let (name, args, is_bundle) = match &cli.command {
        Command::Run(args) => ("run", &**args, false),
        Command::Bundle(bundle) => ("bundle", &*bundle.run, true),
        _ => return Ok(cli),
    };
    let Some(file) = &args.config.config else { return Ok(cli) };
    let document = Document::read(file, &options())?;
    let has_directory = args.has_directory() || sets_directory(&document);
    if document.image.is_some() && sets_directory(&document) {
        let message = format!("{} names an image and a directory, and only one of them can be run", file.display());
        return Err(Failure::usage(message).into());
    }
    if document.image.is_none() && !has_directory && args.positionals().is_empty() {
        let message = format!("{} names no image, and there is none on the command line", file.display());
        return Err(Failure::usage(message).with_hint("name one there: image = \"ubuntu:24.04\"").into());
    }
    let words = line(&document, typed, name, args, is_bundle)?;
    Cli::try_parse_from(words).map_err(Mistake::Line)
}

/// A tree in a directory takes the place of an image.
fn sets_directory(document: &Document) -> bool {
    document.settings.iter().any(|setting| setting.id == "directory")
}

/// The options of `run`, with those of every command.
fn options() -> clap::Command {
    let mut whole = Global::augment_args(clap::Command::new("layermount"))
        .subcommand(RunArgs::augment_args(clap::Command::new("run")));
    whole.build();
    whole
}

/// The whole command line.
fn line(
    document: &Document,
    typed: &[OsString],
    name: &str,
    args: &RunArgs,
    is_bundle: bool,
) -> Result<Vec<OsString>, Mistake> {
    let at = subcommand(typed);
    let (before, behind) = (typed.get(..=at).unwrap_or_default(), typed.get(at + 1..).unwrap_or_default());
    let matches = Cli::command().try_get_matches_from(typed).map_err(Mistake::Line)?;
    let matches = matches.subcommand().map(|(_, matches)| matches.clone()).unwrap_or_default();
    let whole = options();
    let definition = whole.find_subcommand("run").unwrap_or(&whole);

    let mut words = before.to_vec();
    debug_assert_eq!(words.last().and_then(|word| word.to_str()), Some(name));
    let counts = |setting: &&Setting| !is_replaced(setting, definition, &matches);
    words.extend(document.settings.iter().filter(counts).flat_map(|setting| setting.words.iter().cloned()));
    let given = args.positionals();
    let has_directory = args.has_directory() || sets_directory(document);
    let image = document.image.clone().map(OsString::from).filter(|_| !has_directory);
    if is_bundle {
        // Options may stand between the positionals, so nothing is moved.
        words.extend(image.filter(|_| given.is_empty()));
        words.extend(behind.iter().cloned());
        if args.command().is_empty() && !document.command.is_empty() {
            words.extend(behind.iter().all(|word| word != "--").then(|| "--".into()));
            words.extend(document.command.iter().map(OsString::from));
        }
        return Ok(words);
    }
    let options = behind.get(..behind.len() - given.len()).unwrap_or_default();
    words.extend(options.strip_suffix(&["--".into()]).unwrap_or(options).iter().cloned());
    let (image, command) = match image {
        Some(image) => (Some(image), given),
        None if has_directory => (None, given),
        None => (given.first().cloned(), args.command()),
    };
    words.extend(image);
    let command =
        if command.is_empty() { document.command.iter().map(OsString::from).collect() } else { command.to_vec() };
    if !command.is_empty() {
        words.push("--".into());
        words.extend(command);
    }
    Ok(words)
}

/// The position of the subcommand in a command line that is right.
fn subcommand(typed: &[OsString]) -> usize {
    let global = Global::augment_args(clap::Command::new("layermount"));
    let takes_value = |word: &OsString| {
        let name = word.to_str().and_then(|word| word.strip_prefix("--"));
        name.is_some() && global.get_arguments().any(|arg| arg.get_long() == name && arg.get_action().takes_values())
    };
    let mut at = 1;
    while let Some(word) = typed.get(at).filter(|word| word.as_encoded_bytes().starts_with(b"-")) {
        at += if takes_value(word) { 2 } else { 1 };
    }
    at
}

/// Whether what was typed counts in the place of a setting.
fn is_replaced(setting: &Setting, definition: &clap::Command, matches: &ArgMatches) -> bool {
    let was_typed = |arg: &Arg| {
        let id = arg.get_id().as_str();
        matches.ids().any(|known| known.as_str() == id) && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    let Some(arg) = definition.get_arguments().find(|arg| arg.get_id() == setting.id.as_str()) else { return false };
    if was_typed(arg) && !matches!(arg.get_action(), ArgAction::Append) {
        return true;
    }
    let conflicts = |one: &Arg, other: &Arg| {
        definition.get_arg_conflicts_with(one).iter().any(|conflicting| conflicting.get_id() == other.get_id())
    };
    definition.get_arguments().any(|other| was_typed(other) && (conflicts(arg, other) || conflicts(other, arg)))
}

#[cfg(test)]
mod tests;
