//! What became of a pile of blobs.

use layermount_benches::results::{Cold, Figure};

use crate::chart::{self, Bar, Scale};
use crate::table::{Table, at_least, at_most, ratio};

pub(crate) fn markdown(cold: &Cold) -> String {
    let mut table = Table::new(
        ["", "seconds", "least", "most", "processor", "MiB", "layermount takes", "layermount-dir takes"]
            .map(str::to_owned)
            .into(),
    );
    for line in &cold.results {
        let mut cells = vec![line.line.clone()];
        cells.extend(
            [line.wall_s, line.wall_s_least, line.wall_s_most, line.cpu_s].map(|seconds| format!("{seconds:.2}")),
        );
        cells.push((line.rss_kib / 1024).to_string());
        cells.extend([ratio(line.ratio.as_ref()), ratio(line.ratio_dir.as_ref())]);
        table.row(cells);
    }
    let runs = cold.results.iter().map(|line| line.runs).max().unwrap_or_default();
    let mut text = format!("\n## Cold: {}; medians of {runs}\n{}\n", title(cold), table.markdown());
    for (what, names) in &manners(cold) {
        text.push_str(&format!("- {}: {what}\n", names.join(", ")));
    }
    text.extend(cold.versions.iter().map(|(name, version)| format!("- {name} is {version}\n")));
    text.extend(cold.gaps.iter().map(|(name, why)| format!("- not measured: {name}: {why}\n")));
    text.extend(figures(cold).into_iter().map(|line| format!("- {line}\n")));
    text
}

/// What some of them verify and wait for, and who they are, in the order of the first.
fn manners(cold: &Cold) -> Vec<(String, Vec<&str>)> {
    let mut manners: Vec<(String, Vec<&str>)> = Vec::new();
    for line in &cold.results {
        let (Some(verifies), Some(durability)) = (&line.verifies, &line.durability) else { continue };
        let what = format!("verified: {verifies}; {durability}");
        match manners.iter_mut().find(|(other, _)| *other == what) {
            Some((_, names)) => names.push(&line.line),
            None => manners.push((what, vec![&line.line])),
        }
    }
    manners
}

fn figures(cold: &Cold) -> Vec<String> {
    let scaled = |figure: &Figure, by: f64| Figure {
        value: figure.value * by,
        target: figure.target.map(|target| target * by),
        ..*figure
    };
    let mut lines = Vec::new();
    for memory in &cold.memory {
        let mib = scaled(&memory.figure, 1.0 / 1024.0);
        let mib = Figure { target: mib.target.map(f64::round), ..mib };
        lines.push(format!("{}: {:.0} MiB resident{}", memory.line, mib.value, at_most(&mib)));
    }
    if let Some(times) = &cold.directories {
        lines.push(format!("directories take {:.2} times as long as EROFS files{}", times.value, at_least(times)));
    }
    if let Some(share) = &cold.index_share {
        let percent = scaled(share, 100.0);
        lines.push(format!("indexes, in percent of the archives: {:.2}{}", percent.value, at_most(&percent)));
    }
    for start in &cold.warm {
        let ratio =
            start.ratio.map(|ratio| format!("; {:.2} x bwrap{}", ratio.value, at_most(&ratio))).unwrap_or_default();
        lines.push(format!(
            "{}: {:.2} ms, p90 {:.2}, {} runs{ratio}",
            start.line, start.median_ms, start.p90_ms, start.runs
        ));
    }
    let milliseconds = [
        ("`store prune --all`", &cold.prune_ms),
        ("`layermount run` of /bin/true, beside its pull", &cold.after_pull_ms),
    ];
    for (what, figure) in milliseconds {
        lines.extend(figure.iter().map(|ms| format!("{what}, in ms: {:.1}{}", ms.value, at_most(ms))));
    }
    lines
}

fn title(cold: &Cold) -> String {
    let mb = |bytes: u64| bytes / 1_000_000;
    let image = &cold.image;
    let [compressed, plain] = [image.compressed_bytes, image.plain_bytes].map(mb);
    let plural = if image.layers == 1 { "" } else { "s" };
    format!(
        "{} layer{plural}, {compressed} MB compressed, {plain} MB and {} entries plain",
        image.layers, image.entries
    )
}

pub(crate) fn svg(cold: &Cold, machine: &str) -> String {
    let bars: Vec<Bar> = cold
        .results
        .iter()
        .map(|line| Bar { name: &line.line, value: line.wall_s, ours: line.line.starts_with("layermount") })
        .collect();
    chart::svg(&format!("From blobs to files, seconds: {}", title(cold)), machine, Scale::Linear, &bars)
}
