//! What was measured before, to be compared with.

use std::path::{Path, PathBuf};

use layermount::ErrorKind;
use serde_json::Value;

use super::summary::{Measured, Summary};
use crate::args::Percent;
use crate::failure::{Failure, Result};

/// A file that `--json` has written.
#[derive(Debug)]
pub(super) struct Baseline {
    path: PathBuf,
    cold: bool,
    program: String,
    /// Name, median and its standard error, in microseconds.
    phases: Vec<(String, f64, f64)>,
}

pub(super) fn read(path: &Path) -> Result<Baseline> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io(format!("cannot read {shown}"), error))?;
    parse(&text, path)
        .ok_or_else(|| Failure::new(ErrorKind::InvalidInput, format!("{shown} is not what `bench --json` prints")))
}

fn parse(text: &str, path: &Path) -> Option<Baseline> {
    let object: Value = serde_json::from_str(text).ok()?;
    let phases = object.get("Phases")?.as_object()?.iter().map(|(name, phase)| {
        let number = |field: &str| phase.get(field)?.as_f64().filter(|number| *number >= 0.0);
        Some((name.clone(), number("MedianMicroseconds")?, number("ErrorMicroseconds")?))
    });
    Some(Baseline {
        path: path.to_owned(),
        cold: object.get("Cold")?.as_bool()?,
        program: object.get("Program")?.as_str()?.to_owned(),
        phases: phases.collect::<Option<_>>()?,
    })
}

impl Baseline {
    /// Fails when a median has grown by more than is allowed, and by more than the noise of both measurements explains.
    pub(super) fn compare(&self, measured: &Measured, allowed: Percent) -> Result<()> {
        let shown = self.path.display();
        if (self.cold, &self.program) != (measured.cold, &measured.program) {
            let message = format!("{shown} is about something else: another program, or with --cold");
            return Err(Failure::new(ErrorKind::InvalidInput, message));
        }
        let slower: Vec<String> =
            measured.phases.iter().filter_map(|(name, summary)| self.regression(name, summary, allowed)).collect();
        if slower.is_empty() {
            return Ok(());
        }
        let message = format!("slower than {shown} by more than {} %", allowed.0);
        Err(Failure { causes: slower, ..Failure::new(ErrorKind::LimitExceeded, message) })
    }

    fn regression(&self, name: &str, now: &Summary, allowed: Percent) -> Option<String> {
        /// Standard errors of the difference: of a thousand comparisons without a change, one or two fail.
        const SIGNIFICANT: f64 = 3.0;
        let (_, before, error) = self.phases.iter().find(|(known, ..)| known == name)?;
        let (median, now_error) = (now.median.as_secs_f64() * 1e6, now.error.as_secs_f64() * 1e6);
        let growth = median - before;
        let noise = SIGNIFICANT * error.hypot(now_error);
        (growth > before * allowed.0 / 100.0 && growth > noise).then(|| {
            let percent = 100.0 * growth / before;
            format!("{name}: {before:.0} us before, {median:.0} us now (+{percent:.0} %, noise {noise:.0} us)")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn baseline() -> Baseline {
        let text = r#"{"Cold": false, "Program": "/bin/true", "Phases":
            {"mount": {"MedianMicroseconds": 100.0, "ErrorMicroseconds": 2.0}}}"#;
        parse(text, Path::new("x")).unwrap()
    }

    fn now(median: u64, error: u64) -> Summary {
        let (median, error) = (Duration::from_micros(median), Duration::from_micros(error));
        Summary { median, p90: median, least: median, error }
    }

    #[test]
    fn only_what_is_more_than_noise_and_more_than_allowed_fails() {
        let regression = |summary, allowed| baseline().regression("mount", &summary, Percent(allowed));
        assert_eq!(regression(now(109, 1), 10.0), None, "allowed");
        assert_eq!(regression(now(112, 10), 10.0), None, "noise");
        assert!(regression(now(112, 1), 10.0).unwrap().starts_with("mount: 100 us before, 112 us now (+12 %"));
        assert_eq!(regression(now(50, 1), 0.0), None, "faster");
        assert_eq!(baseline().regression("new", &now(1, 0), Percent(0.0)), None);
    }

    #[test]
    fn other_files_are_refused() {
        for bad in ["", "{}", r#"{"Cold": false, "Program": "x", "Phases": {"a": {"MedianMicroseconds": -1}}}"#] {
            assert!(parse(bad, Path::new("x")).is_none(), "{bad}");
        }
    }
}
