//! A file's text as settings, each checked against the option that it is for.

use std::error::Error as _;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::paths;
use crate::failure::{Failure, Result};

/// What a file says.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) image: Option<String>,
    pub(super) command: Vec<String>,
    /// In the order of the file.
    pub(super) settings: Vec<Setting>,
}

/// An option, as words of a command line.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) id: String,
    pub(super) words: Vec<OsString>,
}

/// Options that a file has no use for.
const EXCLUDED: [&str; 2] = ["config", "help"];

impl Document {
    /// `whole` has `run` as a subcommand, and is [built](clap::Command::build).
    pub(super) fn read(file: &Path, whole: &clap::Command) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::io(format!("cannot read {}", file.display()), error))?;
        Self::parse(&text, file, whole)
    }

    pub(super) fn parse(text: &str, file: &Path, whole: &clap::Command) -> Result<Self> {
        let reader = Reader { text, file, whole };
        let table = DeTable::parse(text).map_err(|error| {
            let message = error.message().trim().replace('\n', "; ");
            reader.mistake(error.span().unwrap_or_default(), message)
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut document = Self { image: None, command: Vec::new(), settings: Vec::new() };
        for (key, value) in entries {
            match key.get_ref().as_ref() {
                "image" => document.image = Some(reader.string("image", value)?),
                "command" => document.command = reader.command(value)?,
                name => {
                    let setting = reader.setting(name, key.span(), value)?;
                    if document.settings.iter().any(|known| known.id == setting.id) {
                        let message = format!("{name:?} is another name of an option that is set already");
                        return Err(reader.mistake(key.span(), message));
                    }
                    document.settings.push(setting);
                }
            }
        }
        Ok(document)
    }
}

/// A file that is being read.
struct Reader<'a> {
    text: &'a str,
    file: &'a Path,
    whole: &'a clap::Command,
}

impl Reader<'_> {
    /// `FILE:LINE:COLUMN: message`, both counted from 1, columns in characters.
    fn mistake(&self, span: Range<usize>, message: impl std::fmt::Display) -> Failure {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Failure::usage(format!("{}:{line}:{column}: {message}", self.file.display()))
    }

    fn wrong_type(&self, name: &str, expected: &str, value: &Spanned<DeValue<'_>>) -> Failure {
        self.mistake(value.span(), format!("{name} is {expected}, not {}", described(value.get_ref())))
    }

    fn string(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong_type(name, "a string", value))?;
        Ok(text.to_owned())
    }

    fn command(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>> {
        let expected = r#"an array of words, such as ["sh", "-c", "id"]"#;
        let words = value.get_ref().as_array().ok_or_else(|| self.wrong_type("command", expected, value))?;
        words.iter().map(|word| self.string("a word of command", word)).collect()
    }

    fn setting(&self, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) -> Result<Setting> {
        let Some(arg) = self.option(name) else { return Err(self.unknown(name, span)) };
        let long = arg.get_long().unwrap_or(name);
        let values = match arg.get_action() {
            ArgAction::SetTrue => {
                let on = value.get_ref().as_bool().ok_or_else(|| self.wrong_type(name, "true or false", value))?;
                let words = on.then(|| format!("--{long}").into());
                return Ok(Setting { id: arg.get_id().to_string(), words: words.into_iter().collect() });
            }
            ArgAction::Append => self.several(name, arg, value)?,
            _ => vec![(self.one(name, arg, value)?, value.span())],
        };
        let mut words = Vec::new();
        for (value, span) in values {
            let word = match value {
                Some(text) => format!("--{long}={}", paths::rebased(arg, &text, self.file)),
                None => format!("--{long}"),
            };
            self.check(&word, span)?;
            words.push(word.into());
        }
        Ok(Setting { id: arg.get_id().to_string(), words })
    }

    /// The option that a key is for.
    fn option(&self, name: &str) -> Option<&Arg> {
        let mut options = self.whole.find_subcommand("run")?.get_arguments();
        let is = |arg: &&Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        };
        options.find(is).filter(|arg| !EXCLUDED.contains(&arg.get_id().as_str()))
    }

    fn unknown(&self, name: &str, span: Range<usize>) -> Failure {
        if name == "config" {
            return self.mistake(span, "a file cannot name another one: \"config\" is not a key");
        }
        let failure = self.mistake(span, format!("unknown key {name:?}"));
        let positional = ["image", "command"].into_iter().find(|key| key.starts_with(name) || name.starts_with(key));
        // clap knows what else is meant.
        let error = self.parse(&format!("--{name}")).err();
        let suggestion = match (positional, error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg))) {
            (Some(key), _) => Some(key.to_owned()),
            (None, Some(ContextValue::String(text))) => Some(text.trim_start_matches('-').to_owned()),
            (None, _) => None,
        };
        match suggestion.filter(|suggestion| !EXCLUDED.contains(&suggestion.as_str())) {
            Some(suggestion) => failure.with_hint(format!("did you mean {suggestion:?}?")),
            None => failure.with_hint("keys are image, command and the long options of `layermount run --help`"),
        }
    }

    /// `None` for an option whose value may be left out.
    fn one(&self, name: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Option<String>> {
        let optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
        match value.get_ref() {
            DeValue::String(text) => Ok(Some(text.clone().into_owned())),
            DeValue::Integer(number) if number.radix() == 10 => Ok(Some(number.as_str().to_owned())),
            DeValue::Float(number) => Ok(Some(number.as_str().to_owned())),
            DeValue::Boolean(true) if optional => Ok(None),
            _ => Err(self.wrong_type(name, if optional { "a string or true" } else { "a string" }, value)),
        }
    }

    /// Of an option that may be given several times.
    fn several(
        &self,
        name: &str,
        arg: &Arg,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<(Option<String>, Range<usize>)>> {
        let has_names = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.contains('=')));
        match value.get_ref() {
            DeValue::Array(values) => {
                let one = |value: &Spanned<DeValue<'_>>| {
                    let text = self.one(&format!("a value of {name}"), arg, value)?;
                    Ok((text, value.span()))
                };
                values.iter().map(one).collect()
            }
            DeValue::Table(table) if has_names => {
                let mut entries: Vec<_> = table.iter().collect();
                entries.sort_by_key(|(key, _)| key.span().start);
                let one = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                    let key: &std::borrow::Cow<'_, str> = key.get_ref();
                    if key.contains('=') {
                        return Err(self.mistake(value.span(), format!("the name {key:?} has a = in it")));
                    }
                    let text = self.one(&format!("{name}.{key}"), arg, value)?.unwrap_or_default();
                    Ok((Some(format!("{key}={text}")), value.span()))
                };
                entries.into_iter().map(one).collect()
            }
            DeValue::Table(_) => Err(self.wrong_type(name, "an array of strings", value)),
            DeValue::Boolean(_) | DeValue::Datetime(_) => {
                let or_table = if has_names { " or a table" } else { "" };
                Err(self.wrong_type(name, &format!("an array of strings{or_table}"), value))
            }
            _ => Ok(vec![(self.one(name, arg, value)?, value.span())]),
        }
    }

    /// Has the option's own parser look at a value, so that what it says can be told with a place.
    fn check(&self, word: &str, span: Range<usize>) -> Result<()> {
        let Err(error) = self.parse(word) else { return Ok(()) };
        match error.kind() {
            ErrorKind::ValueValidation
            | ErrorKind::InvalidValue
            | ErrorKind::TooManyValues
            | ErrorKind::TooFewValues => {}
            // About the line as a whole, which there is not yet.
            _ => return Ok(()),
        }
        let (name, value) = word.trim_start_matches('-').split_once('=').unwrap_or((word, ""));
        let why = match error.source() {
            Some(why) => why.to_string(),
            None => match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) if !valid.is_empty() => format!("there are {}", valid.join(", ")),
                _ => "no such value".to_owned(),
            },
        };
        Err(self.mistake(span, format!("{name}: {value:?} cannot be used: {why}")))
    }

    fn parse(&self, word: &str) -> Result<clap::ArgMatches, clap::Error> {
        self.whole.clone().try_get_matches_from(["layermount", "run", word, "image"])
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
