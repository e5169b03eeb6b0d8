//! What became of an image that was ready.

use layermount_benches::results::{AtOnce, Figure, Warm, WarmImage, WarmLine};

use crate::chart::{self, Bar, Scale};
use crate::table::{Table, at_least, at_most, ratio};

pub(crate) fn markdown(warm: &Warm) -> String {
    let mut text = String::new();
    for image in &warm.images {
        let runs = image.lines.iter().map(|line| line.runs).max().unwrap_or_default();
        text.push_str(&format!("\n## Warm: {}; medians of {runs}\n{}\n", image.image, table(image).markdown()));
        text.extend(image.at_once.iter().map(at_once));
        text.extend(image.gaps.iter().map(|gap| format!("- not measured: {gap}\n")));
    }
    text.push('\n');
    text.extend(warm.notes.iter().map(|note| format!("- {note}\n")));
    // The same for every image.
    for line in warm.images.first().iter().flat_map(|image| &image.lines) {
        text.push_str(&format!(
            "- {} ({}): {}; network: {}\n",
            line.name, line.version, line.confinement, line.network
        ));
    }
    text
}

fn table(image: &WarmImage) -> Table {
    let ours: Vec<&str> = image.lines.iter().filter(|line| line.ours).map(|line| line.name.as_str()).collect();
    let mut headings: Vec<String> = ["", "ms", "p90"].map(str::to_owned).into();
    headings.extend(ours.iter().map(|ours| format!("{ours} takes")));
    let mut table = Table::new(headings);
    for line in &image.lines {
        let mut cells = vec![line.name.clone()];
        cells.extend([line.median_ms, line.p90_ms].map(|ms| format!("{ms:.2}")));
        cells.extend(ours.iter().map(|ours| beside(line, ours)));
        table.row(cells);
    }
    table
}

/// What one of ours takes beside this one; to one that takes next to nothing, in milliseconds.
fn beside(line: &WarmLine, ours: &str) -> String {
    match line.more_ms.get(ours) {
        Some(more) => format!("{:+.2} ms{}", more.value, at_most(more)),
        None => short(line.ratios.get(ours)),
    }
}

/// Shares of a hundredth are told apart.
fn short(figure: Option<&Figure>) -> String {
    match figure {
        Some(figure) if figure.value < 0.1 => format!("{:.3} x{}", figure.value, at_most(figure)),
        figure => ratio(figure),
    }
}

fn at_once(one: &AtOnce) -> String {
    let AtOnce { name, at_once, started, failed, per_second, ratio } = one;
    let ratio = ratio.map(|ratio| format!("; {:.2} x bwrap{}", ratio.value, at_least(&ratio))).unwrap_or_default();
    format!("- {at_once} at once: {name} {per_second:.0} a second, {failed} of {started} failed{ratio}\n")
}

/// Of the image with ten layers, if there is one.
pub(crate) fn svg(warm: &Warm, machine: &str) -> String {
    let image = warm.images.iter().find(|image| image.layers == 10).or(warm.images.first());
    let lines = image.map_or(&[][..], |image| &image.lines);
    let bars: Vec<Bar> =
        lines.iter().map(|line| Bar { name: &line.name, value: line.median_ms, ours: line.ours }).collect();
    let title = image.map_or("", |image| &image.image);
    chart::svg(&format!("From image to program and back, milliseconds: {title}"), machine, Scale::Logarithmic, &bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, ours: bool, median_ms: f64) -> WarmLine {
        WarmLine {
            name: name.into(),
            version: "1".into(),
            ours,
            confinement: "nothing".into(),
            network: "the host's".into(),
            runs: 3,
            median_ms,
            p90_ms: median_ms,
            ratios: [].into(),
            more_ms: [].into(),
        }
    }

    #[test]
    fn each_way_to_call_layermount_has_a_column_and_its_own_verdict() {
        let mut bwrap = line("bwrap", false, 4.0);
        bwrap.ratios.insert("run".into(), Figure::at_most(0.8, Some(0.75)));
        bwrap.ratios.insert("kept".into(), Figure::at_most(0.5, None));
        let mut exec = line("exec", false, 2.0);
        exec.more_ms.insert("run".into(), Figure::at_most(1.1, Some(1.2)));
        let lines = vec![line("run", true, 3.2), line("kept", true, 2.0), bwrap, exec];
        let image = WarmImage { image: "an image".into(), layers: 10, lines, at_once: Vec::new(), gaps: Vec::new() };
        let text = table(&image).markdown();
        let rows: Vec<Vec<&str>> = text.lines().map(|row| row.split('|').map(str::trim).collect()).collect();
        assert!(rows.contains(&vec!["", "", "ms", "p90", "run takes", "kept takes", ""]), "{text}");
        assert!(
            rows.contains(&vec!["", "bwrap", "4.00", "4.00", "0.80 x, at most 0.75: missed", "0.50 x", ""]),
            "{text}"
        );
        assert!(rows.contains(&vec!["", "exec", "2.00", "2.00", "+1.10 ms, at most 1.2: met", "", ""]), "{text}");
        let warm = Warm { notes: vec!["all without".into()], images: vec![image] };
        assert!(markdown(&warm).contains("- all without\n"));
        // 2 and 4 are in the same decade, which begins at 1.
        assert!(svg(&warm, "here").contains(&format!("width=\"{:.1}\"", 4_f64.log10() * 460.0)));
    }
}
