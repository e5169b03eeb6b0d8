//! Many runs as a few numbers.

use std::time::Duration;

use layermount::Image;
use serde_json::{Value, json};

use super::sample::Sample;
use crate::args::BenchArgs;
use crate::images::familiar;

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) image: String,
    pub(super) layers: usize,
    pub(super) cold: bool,
    pub(super) runs: usize,
    pub(super) program: String,
    pub(super) machine: String,
    pub(super) phases: Vec<(&'static str, Summary)>,
}

impl Measured {
    pub(super) fn new(image: &Image, args: &BenchArgs, samples: &[Sample]) -> Self {
        let names: Vec<&'static str> =
            samples.first().map_or(Vec::new(), |sample| sample.phases().iter().map(|(name, _)| *name).collect());
        let took = |name: &str| {
            let phases = samples.iter().flat_map(Sample::phases);
            phases.filter(|(other, _)| *other == name).map(|(_, took)| *took).collect()
        };
        let program: Vec<_> = args.command().iter().map(|word| word.to_string_lossy()).collect();
        Self {
            image: image.names().first().map_or_else(|| image.id().to_string(), |name| familiar(name)),
            layers: image.layers().len(),
            cold: args.cold,
            runs: samples.len(),
            program: if program.is_empty() { "/bin/true".to_owned() } else { program.join(" ") },
            machine: machine(),
            // A phase that never happens is none.
            phases: names
                .into_iter()
                .map(|name| (name, Summary::of(took(name))))
                .filter(|(_, summary)| !summary.median.is_zero())
                .collect(),
        }
    }
}

/// Of one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) median: Duration,
    pub(super) p90: Duration,
    pub(super) least: Duration,
    /// By how much the median would differ, were everything measured once more: its standard error, estimated from the median
    /// absolute deviation, which a few disturbed runs do not move.
    pub(super) error: Duration,
}

impl Summary {
    pub(super) fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let median = quantile(&took, 0.5);
        let mut deviations: Vec<Duration> = took.iter().map(|took| took.abs_diff(median)).collect();
        deviations.sort_unstable();
        // 1.4826 makes a standard deviation of it for a normal distribution, and 1.2533 is what the median's error is more than
        // the mean's.
        let error = quantile(&deviations, 0.5).mul_f64(1.4826 * 1.2533 / (took.len().max(1) as f64).sqrt());
        Self { median, p90: quantile(&took, 0.9), least: quantile(&took, 0.0), error }
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "MedianMicroseconds": microseconds(self.median),
            "P90Microseconds": microseconds(self.p90),
            "LeastMicroseconds": microseconds(self.least),
            "ErrorMicroseconds": microseconds(self.error),
        })
    }
}

/// Between two values, the one nearer to it.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let place = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}

/// To a tenth.
fn microseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

/// `0.123 ms`.
pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

/// What a phase is.
pub(super) fn describe(name: &str) -> &'static str {
    match name {
        "resolve" => "from the name to the image",
        "locate" => "its layers found and held",
        "unpack" => "its layers fetched, verified and stored",
        "mount" => "layers and a temporary top mounted as one tree",
        "prepare" => "the command checked, every system call of the child written down",
        "clone" => "a child in namespaces of its own",
        "furnish" => "/proc, /sys, /dev, files in /etc",
        "enter" => "pivot_root",
        "become" => "user, working directory, capabilities, filter",
        "exec" => "until the program's first instruction",
        "spawn" => "a child that enters the image and becomes the program",
        "ready" => "all of the above",
        "program" => "until the program has ended",
        "whole" => "`layermount run` as a shell starts it, to its end",
        _ => "",
    }
}

/// `Linux 6.18.0, 8 x AMD EPYC 7B13`.
fn machine() -> String {
    let uname = rustix::system::uname();
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or(uname.machine().to_string_lossy().into_owned(), |(_, model)| model.trim().to_owned());
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{} {}, {processors} x {model}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_errors() {
        let of = |values: &[u64]| Summary::of(values.iter().map(|value| Duration::from_micros(*value)).collect());
        let summary = of(&[5, 1, 4, 2, 3]);
        assert_eq!(summary.median, Duration::from_micros(3));
        assert_eq!((summary.least, summary.p90), (Duration::from_micros(1), Duration::from_micros(5)));
        let disturbed = of(&[100, 101, 99, 100, 102, 98, 5000]);
        assert!(disturbed.error < Duration::from_micros(2), "{disturbed:?}");
        assert_eq!(of(&[7]).error, Duration::ZERO);
        assert_eq!(of(&[]).median, Duration::ZERO);
    }
}
