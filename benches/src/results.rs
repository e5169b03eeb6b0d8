//! What the comparison with other tools keeps as JSON, for who makes it and who draws it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that `benches/compare` knows in the end.
#[derive(Debug, Deserialize)]
pub struct Results {
    /// When, as a date.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// From a pile of blobs to directories or files.
    pub cold: Option<Cold>,
    /// From an image that is ready to a program that has run.
    pub warm: Option<Warm>,
}

/// What all of them ran on.
#[derive(Debug, Deserialize)]
pub struct Machine {
    /// Its release.
    pub kernel: String,
    /// The processors' model.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
    /// In all.
    pub memory_bytes: u64,
}

/// A figure beside what was promised, if anything was.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// As measured.
    pub value: f64,
    /// As promised.
    pub target: Option<f64>,
    /// Whether it is so.
    pub met: Option<bool>,
}

impl Figure {
    /// It may not be more than this.
    pub fn at_most(value: f64, target: Option<f64>) -> Self {
        Self { value, target, met: target.map(|target| value <= target) }
    }

    /// It may not be less than this.
    pub fn at_least(value: f64, target: f64) -> Self {
        Self { value, target: Some(target), met: Some(value >= target) }
    }
}

/// Unpackers, by `benches/compare.d/cold`.
#[derive(Debug, Deserialize)]
pub struct Cold {
    /// What was unpacked.
    pub image: Image,
    /// By the tool's name.
    pub versions: BTreeMap<String, String>,
    /// Why somebody is not there.
    pub gaps: BTreeMap<String, String>,
    /// In the order in which they took turns.
    pub results: Vec<ColdLine>,
    /// Resident at most, in KiB.
    pub memory: Vec<Named>,
    /// How much longer directories take than EROFS files.
    pub directories: Option<Figure>,
    /// What the indexes are of the archives.
    pub index_share: Option<Figure>,
    /// As an ordinary user: starts of programs.
    pub warm: Vec<ColdStart>,
    /// `store prune --all`.
    pub prune_ms: Option<Figure>,
    /// `run` without the pull that it begins with.
    pub after_pull_ms: Option<Figure>,
}

/// An image that was unpacked.
#[derive(Debug, Deserialize)]
pub struct Image {
    /// How many.
    pub layers: usize,
    /// All of them.
    pub compressed_bytes: u64,
    /// The archives.
    pub plain_bytes: u64,
    /// In the archives.
    pub entries: u64,
}

/// An unpacker.
#[derive(Debug, Deserialize)]
pub struct ColdLine {
    /// Its name.
    pub line: String,
    /// What it compares with the digests that the image is made of.
    pub verifies: Option<String>,
    /// Whether all is on the disk when it ends.
    pub durability: Option<String>,
    /// How often.
    pub runs: usize,
    /// The median.
    pub wall_s: f64,
    /// The fastest.
    pub wall_s_least: f64,
    /// The slowest.
    pub wall_s_most: f64,
    /// The median.
    pub cpu_s: f64,
    /// The most of all.
    pub rss_kib: u64,
    /// What `layermount pull` takes of its time.
    pub ratio: Option<Figure>,
    /// What `layermount pull --backing dir` takes of its time.
    pub ratio_dir: Option<Figure>,
}

/// Whose figure it is.
#[derive(Debug, Deserialize)]
pub struct Named {
    /// The line.
    pub line: String,
    /// Its figure.
    #[serde(flatten)]
    pub figure: Figure,
}

/// A start of an ordinary user's.
#[derive(Debug, Deserialize)]
pub struct ColdStart {
    /// Its name.
    pub line: String,
    /// How often.
    pub runs: usize,
    /// From start to end.
    pub median_ms: f64,
    /// Nine of ten take no longer.
    pub p90_ms: f64,
    /// Of what bwrap takes.
    pub ratio: Option<Figure>,
}

/// Starts of programs, by `warm`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Warm {
    /// What is out of the ordinary about how they were measured.
    pub notes: Vec<String>,
    /// In the order in which they were measured.
    pub images: Vec<WarmImage>,
}

/// All that ran in one image.
#[derive(Debug, Deserialize, Serialize)]
pub struct WarmImage {
    /// What it is.
    pub image: String,
    /// How many.
    pub layers: usize,
    /// In the order in which they took turns.
    pub lines: Vec<WarmLine>,
    /// Many starts at the same time.
    pub at_once: Vec<AtOnce>,
    /// Why somebody is not there.
    pub gaps: Vec<String>,
}

/// A way to start a program.
#[derive(Debug, Deserialize, Serialize)]
pub struct WarmLine {
    /// Its name.
    pub name: String,
    /// As it says itself.
    pub version: String,
    /// Whether it is a way to call layermount, which others are compared with.
    pub ours: bool,
    /// What it keeps the program from.
    pub confinement: String,
    /// What network the program has.
    pub network: String,
    /// How often.
    pub runs: usize,
    /// From fork to exit.
    pub median_ms: f64,
    /// Nine of ten take no longer.
    pub p90_ms: f64,
    /// What each of ours takes of its time, by name.
    pub ratios: BTreeMap<String, Figure>,
    /// What each of ours takes more, in milliseconds, where that is what was promised.
    pub more_ms: BTreeMap<String, Figure>,
}

/// Many starts at the same time.
#[derive(Debug, Deserialize, Serialize)]
pub struct AtOnce {
    /// Whose.
    pub name: String,
    /// At the same time.
    pub at_once: usize,
    /// In all.
    pub started: usize,
    /// Of these.
    pub failed: usize,
    /// The median of all rounds.
    pub per_second: f64,
    /// That of ours, as a share of bwrap's.
    pub ratio: Option<Figure>,
}
