//! `layermount doctor`: what this machine can do for this user.

use std::io::{self, Write};

use layermount::Docker;
use layermount::doctor::{Diagnosis, Doctor, Outcome, Probe, Running};
use layermount::store::Backing;
use serde_json::{Value, json};

use crate::args::{DoctorArgs, Global};
use crate::failure::Result;
use crate::start::ExitCode;
use crate::text::{pretty, printable};

/// Succeeds where `run` can be expected to.
pub(crate) fn doctor(args: &DoctorArgs, global: &Global, out: &mut dyn Write) -> Result<ExitCode> {
    let mut doctor = Doctor::default();
    if let Some(path) = &global.store {
        doctor = doctor.store(path);
    }
    if let Some(host) = &args.host {
        doctor = doctor.docker(Docker::at(host)?);
    }
    let diagnosis = doctor.examine();
    match args.json {
        true => writeln!(out, "{}", pretty(&object(&diagnosis)))?,
        false => write(&diagnosis, out)?,
    }
    Ok(if diagnosis.run().is_possible() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(diagnosis: &Diagnosis, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", headline(diagnosis))?;
    let width = |probe: &Probe| probe.subject().to_string().chars().count();
    let width = diagnosis.probes().iter().map(width).max().unwrap_or(0);
    let mut last = None;
    for probe in diagnosis.probes() {
        let topic = probe.subject().topic();
        if last.replace(topic) != Some(topic) {
            writeln!(out, "\n{}", topic.as_str())?;
        }
        let (subject, found) = (probe.subject(), probe.outcome().found());
        writeln!(out, "  {}  {subject:<width$}  {}", mark(probe), printable(&found))?;
        if let Outcome::Fails(shortcoming) = probe.outcome() {
            write_lines(out, width, "so:", shortcoming.consequence())?;
            write_lines(out, width, "change:", shortcoming.remedy().unwrap_or("nothing can be, here"))?;
        }
    }
    Ok(())
}

/// Below what was found, which begins behind a mark and a subject.
fn write_lines(out: &mut dyn Write, width: usize, lead: &str, text: &str) -> io::Result<()> {
    let indent = 2 + MARK + 2 + width + 2;
    for (number, line) in text.lines().enumerate() {
        let lead = if number == 0 { lead } else { "" };
        writeln!(out, "{:indent$}{lead:<8}{}", "", printable(line))?;
    }
    Ok(())
}

/// How wide a mark is.
const MARK: usize = 4;

fn mark(probe: &Probe) -> &'static str {
    match probe.outcome() {
        Outcome::Works(_) => "ok  ",
        Outcome::Fails(_) if probe.prevents() => "FAIL",
        Outcome::Fails(_) => "lack",
        _ => "-   ",
    }
}

fn headline(diagnosis: &Diagnosis) -> String {
    let lacking = diagnosis.probes().iter().any(|probe| matches!(probe.outcome(), Outcome::Fails(_)));
    match (diagnosis.run(), diagnosis.obstacle()) {
        (Running::Impossible, Some(obstacle)) => {
            let (topic, subject) = (obstacle.subject().topic().as_str(), obstacle.subject());
            format!("layermount run does not work here: see 'FAIL' below ({topic}, {subject})")
        }
        (run, _) if lacking => format!("layermount run works here: {run}; what more there could be is marked 'lack'"),
        (run, _) => format!("layermount run works here: {run}"),
    }
}

fn object(diagnosis: &Diagnosis) -> Value {
    let run = diagnosis.run();
    let (users, groups) = match run {
        Running::InCallersNamespace { users, groups } | Running::WithSubordinates { users, groups } => {
            (Some(users), Some(groups))
        }
        Running::Alone => (Some(1), Some(1)),
        _ => (None, None),
    };
    let backing = match run {
        Running::Impossible => None,
        Running::AsRoot { backing: Backing::Erofs } => Some("erofs"),
        _ => Some("dir"),
    };
    json!({
        "Run": {
            "Works": run.is_possible(),
            "How": run.as_str(),
            "Users": users,
            "Groups": groups,
            "Backing": backing,
        },
        "Probes": diagnosis.probes().iter().map(probe_object).collect::<Vec<_>>(),
    })
}

fn probe_object(probe: &Probe) -> Value {
    let shortcoming = match probe.outcome() {
        Outcome::Fails(shortcoming) => Some(shortcoming),
        _ => None,
    };
    json!({
        "Name": probe.subject().as_str(),
        "Topic": probe.subject().topic().as_str(),
        "Outcome": probe.outcome().as_str(),
        "Found": probe.outcome().found(),
        "Weight": shortcoming.map(|shortcoming| shortcoming.weight().as_str()),
        "Consequence": shortcoming.map(|shortcoming| shortcoming.consequence()),
        "Remedy": shortcoming.and_then(|shortcoming| shortcoming.remedy()),
    })
}
