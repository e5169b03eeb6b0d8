//! What clap has to say: help, the version, and command lines that are wrong.

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, CommandFactory};

use crate::args::{Cli, LogFormat};
use crate::failure::{ExitStyle, Failure};
use crate::report::Report;
use crate::start::ExitCode;

/// Prints what clap answered instead of a parsed command line.
pub(crate) fn answer(error: clap::Error, words: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever closed stdout does not want to know.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        // Help that nobody asked for goes to stderr, and is a mistake all the same.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(2);
        }
        _ => {}
    }
    let typed = Typed::from(&Cli::command().ignore_errors(true).try_get_matches_from(words).unwrap_or_default());
    let failure = failure(&error, &typed);
    Report::with_format(typed.format).failure(&failure);
    failure.exit_code(typed.style)
}

/// What could be understood of a wrong command line: enough to answer in the form that was asked for.
#[derive(Debug)]
struct Typed {
    format: LogFormat,
    style: ExitStyle,
    /// Such as `layermount store ls`.
    command: String,
}

impl From<&ArgMatches> for Typed {
    fn from(matches: &ArgMatches) -> Self {
        let format = matches.try_get_one("log_format").ok().flatten().copied().unwrap_or(LogFormat::Text);
        let style =
            if matches!(matches.subcommand_name(), Some("run" | "enter")) { ExitStyle::Run } else { ExitStyle::Plain };
        let mut command = String::from("layermount");
        let mut next = matches.subcommand();
        while let Some((name, matches)) = next {
            command.push(' ');
            command.push_str(name);
            next = matches.subcommand();
        }
        Self { format, style, command }
    }
}

/// clap's text in layermount's form: its first paragraph is the message, its tips are the hint.
fn failure(error: &clap::Error, typed: &Typed) -> Failure {
    let text = error.render().to_string();
    let mut paragraphs = text.trim_end().split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first);
    let message: Vec<&str> = message.lines().map(str::trim).collect();
    let mut hints: Vec<String> = Vec::new();
    match error.kind() {
        ErrorKind::MissingRequiredArgument if lacks_an_image(error) => {
            hints.push(
                "name an image, such as `ubuntu` or `oci:DIR`; `layermount images` lists those in the store".into(),
            );
        }
        ErrorKind::InvalidSubcommand if typed.command == "layermount" => {
            hints.push("to run a program inside an image: layermount run IMAGE [COMMAND]".into());
        }
        _ => {}
    }
    for line in paragraphs.flat_map(str::lines).map(str::trim) {
        // The last paragraph names an option only; the whole command can be copied.
        if !line.starts_with("For more information") {
            let line = line.trim_start_matches("tip: ");
            hints.push(match line.strip_prefix("Usage: ") {
                Some(usage) => format!("usage: {usage}"),
                // The other way to write it, below the first.
                None if line.starts_with("layermount ") => format!("       {line}"),
                None => line.to_owned(),
            });
        }
    }
    hints.push(format!("see `{} --help`", typed.command));
    Failure::usage(message.join(" ")).with_hint(hints.join("\n"))
}

fn lacks_an_image(error: &clap::Error) -> bool {
    error.get(ContextKind::InvalidArg).is_some_and(|missing| missing.to_string().contains("<IMAGE>"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn mistake(line: &str) -> (Failure, Typed) {
        let words = || std::iter::once("layermount").chain(line.split_whitespace());
        let error = Cli::try_parse_from(words()).unwrap_err();
        let typed = Typed::from(&Cli::command().ignore_errors(true).try_get_matches_from(words()).unwrap_or_default());
        (failure(&error, &typed), typed)
    }

    #[test]
    fn a_wrong_line_is_answered_in_the_form_that_it_asked_for() {
        let (_, typed) = mistake("--log-format json run --nonsense");
        assert_eq!((typed.format, typed.style), (LogFormat::Json, ExitStyle::Run));
        let (_, typed) = mistake("store ls --nonsense");
        assert_eq!((typed.style, typed.command.as_str()), (ExitStyle::Plain, "layermount store ls"));
    }

    #[test]
    fn the_hint_says_what_to_type() {
        let (failure, _) = mistake("run");
        assert!(failure.message.contains("<IMAGE>"), "{failure:?}");
        assert!(failure.hint.as_deref().is_some_and(|hint| hint.starts_with("name an image")), "{failure:?}");
        let (failure, _) = mistake("imags");
        let hint = failure.hint.unwrap_or_default();
        assert!(hint.contains("'images'") && hint.contains("layermount run IMAGE"), "{hint}");
        assert!(hint.ends_with("see `layermount --help`"), "{hint}");
        let hint = mistake("mount image").0.hint.unwrap_or_default();
        let columns: Vec<_> = hint.lines().filter_map(|line| line.find("layermount mount [")).collect();
        assert_eq!(columns, [7, 7], "{hint}");
        assert!(mistake("store lss").0.hint.unwrap_or_default().ends_with("see `layermount store --help`"));
    }
}
