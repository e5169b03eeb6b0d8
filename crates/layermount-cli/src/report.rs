//! What is said on stderr: failures, warnings, and, when asked, what is being done.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::args::{Global, LogFormat};
use crate::failure::{Failure, Kind};
use crate::text::{elapsed, printable};

/// Says things to whoever started layermount, in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    format: LogFormat,
    level: Level,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Failures only.
    Quiet,
    /// And warnings and progress.
    Normal,
    /// And every phase with its duration.
    Verbose,
}

impl Report {
    pub(crate) fn new(global: &Global) -> Self {
        let level = match (global.quiet, global.verbose) {
            (true, _) => Level::Quiet,
            (false, true) => Level::Verbose,
            (false, false) => Level::Normal,
        };
        Self { format: global.log_format, level }
    }

    /// For failures that come up before the command line is understood.
    pub(crate) fn with_format(format: LogFormat) -> Self {
        Self { format, level: Level::Normal }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.level == Level::Quiet
    }

    /// Whether moving bars have a place to be drawn.
    pub(crate) fn shows_bars(&self) -> bool {
        self.format == LogFormat::Text && self.level >= Level::Normal && io::stderr().is_terminal()
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.kind == Kind::BrokenPipe {
            return;
        }
        match self.format {
            LogFormat::Json => write(&format!("{}\n", failure_object(failure))),
            LogFormat::Text => write(&failure_text(failure)),
        }
    }

    /// Something that the person should know, although the work goes on.
    pub(crate) fn warn(&self, message: &str) {
        self.remark(Level::Normal, "warning", message);
    }

    /// What to do next, where nothing failed.
    pub(crate) fn hint(&self, message: &str) {
        self.remark(Level::Normal, "hint", message);
    }

    /// Something for those who want to know all.
    pub(crate) fn detail(&self, message: &str) {
        self.remark(Level::Verbose, "info", message);
    }

    fn remark(&self, level: Level, name: &str, message: &str) {
        if self.level < level {
            return;
        }
        match self.format {
            LogFormat::Json => write(&format!("{}\n", json!({ "level": name, "message": message }))),
            LogFormat::Text => write(&format!("layermount: {name}: {}\n", printable(message))),
        }
    }

    /// The end of a phase that began at `since`; said only when somebody wants to know.
    pub(crate) fn phase(&self, phase: Phase, since: Instant, message: impl FnOnce() -> String) {
        if self.level < Level::Verbose {
            return;
        }
        let (message, took) = (message(), since.elapsed());
        match self.format {
            LogFormat::Json => write(&format!("{}\n", phase_object(phase, took, &message))),
            LogFormat::Text => {
                write(&format!("layermount: {}: {} ({})\n", phase.as_str(), printable(&message), elapsed(took)));
            }
        }
    }
}

/// The steps of a command, for verbose output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The image was found.
    Resolve,
    /// Its layers can be mounted.
    Layers,
    /// They are mounted.
    Mount,
    /// They are copied into one directory.
    Unpack,
    /// The program runs.
    Start,
    /// The program has ended.
    End,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Layers => "layers",
            Self::Mount => "mount",
            Self::Unpack => "unpack",
            Self::Start => "start",
            Self::End => "end",
        }
    }
}

fn phase_object(phase: Phase, took: Duration, message: &str) -> Value {
    let milliseconds = (took.as_secs_f64() * 1_000_000.0).round() / 1000.0;
    json!({ "level": "info", "phase": phase.as_str(), "message": message, "elapsed_ms": milliseconds })
}

fn failure_object(failure: &Failure) -> Value {
    let Failure { kind, message, causes, hint } = failure;
    json!({ "level": "error", "kind": kind.as_str(), "message": message, "causes": causes, "hint": hint })
}

fn failure_text(failure: &Failure) -> String {
    let mut text = format!("layermount: {}\n", printable(&failure.message));
    for cause in &failure.causes {
        // A cause of several lines stays one cause.
        for (number, line) in cause.lines().enumerate() {
            let lead = if number == 0 { "  because " } else { "          " };
            text.push_str(&format!("{lead}{}\n", printable(line)));
        }
    }
    for (number, line) in failure.hint.iter().flat_map(|hint| hint.lines().enumerate()) {
        let lead = if number == 0 { "  hint: " } else { "        " };
        text.push_str(&format!("{lead}{}\n", printable(line)));
    }
    text
}

/// One call, so that lines of several processes do not mix. Whoever closed stderr does not want to know.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use layermount::ErrorKind;

    use super::*;

    fn failure() -> Failure {
        Failure {
            causes: vec!["open(\"/x\") = EACCES".into(), "two\nlines \u{1b}[31m".into()],
            ..Failure::new(ErrorKind::PermissionDenied, "cannot read\nx").with_hint("become root\nor ask")
        }
    }

    #[test]
    fn failures_as_text() {
        let expected = "\
layermount: cannot read x
  because open(\"/x\") = EACCES
  because two
          lines \\u{1b}[31m
  hint: become root
        or ask
";
        assert_eq!(failure_text(&failure()), expected);
    }

    #[test]
    fn failures_as_json_are_one_line() {
        let line = failure_object(&failure()).to_string();
        assert!(!line.contains('\n'));
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["kind"], "permission_denied");
        assert_eq!(object["causes"][0], "open(\"/x\") = EACCES");
        assert_eq!(object["hint"], "become root\nor ask");
    }

    #[test]
    fn phases_as_json() {
        let object = phase_object(Phase::Mount, Duration::from_micros(1234), "2 layers");
        assert_eq!(object.to_string(), r#"{"elapsed_ms":1.234,"level":"info","message":"2 layers","phase":"mount"}"#);
    }
}
