//! Each flag of `run` beside `docker run` with the same flag on the same image: what a program sees, and how it ends.
//!
//! A row that differs by design says so, and why; the README lists those. It is checked that it does differ: what became equal is
//! no difference any more.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod world;

#[path = "parity/rows.rs"]
mod rows;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rows::{ROWS, Row, Shown};
use world::{World, docker, docker_host, root};

/// The image, where docker has it.
const NAME: &str = "layermount-test-parity:latest";

/// What came of a run.
#[derive(Debug)]
struct Outcome {
    status: Option<i32>,
    shown: String,
    /// For whoever reads why a row is wrong.
    #[allow(dead_code, reason = "printed by Debug")]
    said: String,
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.shown) == (other.status, &other.shown)
    }
}

struct Beside {
    world: World,
    image: String,
    host: String,
}

impl Beside {
    fn new() -> Option<Self> {
        root()?;
        let host = docker_host()?;
        world::program("skopeo")?;
        let world = World::new();
        let layout = world.shell_layout()?;
        let image = format!("oci:{layout}:shell");
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-daemon-host", &host, &image])
            .arg(format!("docker-daemon:{NAME}"))
            .output()
            .unwrap();
        assert!(copied.status.success(), "skopeo: {}", String::from_utf8_lossy(&copied.stderr));
        fs::create_dir(world.path().join("dir")).unwrap();
        fs::write(world.path().join("dir/file"), "from the host\n").unwrap();
        fs::write(world.path().join("env"), "# comment\nFROM_FILE=a b\nALSO\n").unwrap();
        world.output(&["pull", &image]);
        Some(Self { world, image, host })
    }

    /// `@` in a flag is the directory of the test, `SIDE` whose turn it is.
    fn flags(&self, row: &Row, side: &str) -> Vec<String> {
        let directory = self.world.path().to_str().unwrap();
        row.flags.iter().map(|flag| flag.replace('@', directory).replace("SIDE", side)).collect()
    }

    fn ours(&self, row: &Row) -> Outcome {
        let mut command = self.world.layermount();
        command.arg("run").args(self.flags(row, "ours")).arg(&self.image).args(row.words);
        outcome(&mut command, row)
    }

    fn theirs(&self, row: &Row) -> Outcome {
        let mut command = Command::new("docker");
        command.args(["-H", &self.host, "run", "--rm"]);
        if !row.flags.iter().any(|flag| flag.starts_with("--net")) {
            // Ours is the host's unless another is asked for, and the daemon has no bridge.
            command.args(["--network", "host"]);
        }
        command.args(self.flags(row, "theirs")).arg(NAME).args(row.words);
        outcome(&mut command, row)
    }
}

fn outcome(command: &mut Command, row: &Row) -> Outcome {
    let output = command.env("ALSO", "inherited").env("TERM", "vt220").stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    Outcome {
        status: output.status.code(),
        shown: row.shown.of(&stdout),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    }
}

#[test]
fn every_flag_does_as_dockers_does() {
    let Some(beside) = Beside::new() else { return };
    let wrong = Mutex::new(Vec::new());
    let queue = Mutex::new(ROWS.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(row) = queue.lock().unwrap().next() else { break };
                    let (ours, theirs) = (beside.ours(row), beside.theirs(row));
                    if theirs.said.contains("unable to apply caps") {
                        // This machine's root lacks some, which docker insists on.
                        eprintln!("not compared: {:?}", row.flags);
                        continue;
                    }
                    if (ours == theirs) != row.differs.is_none() {
                        let line = format!("{:?} {:?}\nours:   {ours:?}\ntheirs: {theirs:?}", row.flags, row.words);
                        wrong.lock().unwrap().push(line);
                    }
                }
            });
        }
    });
    docker(&beside.host, &["rmi", "-f", NAME]);
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} rows of {}:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}

/// Flags that rows have in their short form alone.
const SHORT: [(&str, &str); 2] = [("-i", "--interactive"), ("-p", "--publish")];

/// A flag that `run` has and the table has not is one that nobody has compared.
#[test]
fn every_flag_is_in_the_table() {
    let help = World::new().output(&["run", "--help"]);
    let flags = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let long = line.split([' ', ',', '=']).find(|word| word.starts_with("--"))?;
        (line.starts_with('-') && !long.contains(|c: char| !c.is_ascii_lowercase() && c != '-')).then_some(long)
    });
    let short = |flag: &str| {
        SHORT.iter().any(|(short, long)| *long == flag && ROWS.iter().any(|row| row.flags.contains(short)))
    };
    let known = |flag: &str| {
        ROWS.iter().any(|row| row.flags.contains(&flag)) || short(flag) || rows::NOT_DOCKERS.contains(&flag)
    };
    let missing: Vec<_> = flags.filter(|flag| !known(flag)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

impl Shown {
    fn of(self, text: &str) -> String {
        match self {
            Self::All => text.to_owned(),
            Self::Sorted => {
                let mut lines: Vec<&str> = text.lines().collect();
                lines.sort_unstable();
                lines.join("\n")
            }
            Self::Nothing => String::new(),
        }
    }
}
