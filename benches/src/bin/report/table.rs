//! Markdown that is read as text, too.

use layermount_benches::results::Figure;

/// Rows of cells below a row of headings; numbers to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: Vec<String>) -> Self {
        Self { rows: vec![headings] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default().max(2)).collect();
        let mut text = String::from("\n");
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("| {cell:<width$} "),
                _ => format!("| {cell:>width$} "),
            });
            text.extend(cells);
            text.push_str("|\n");
            if number == 0 {
                let rule = widths.iter().enumerate().map(|(column, &width)| match column {
                    0 => format!("|{}", "-".repeat(width + 2)),
                    _ => format!("|{}:", "-".repeat(width + 1)),
                });
                text.extend(rule);
                text.push_str("|\n");
            }
        }
        text
    }
}

/// "0.20 x, at most 0.25: met".
pub(crate) fn ratio(figure: Option<&Figure>) -> String {
    figure.map_or_else(String::new, |figure| format!("{:.2} x{}", figure.value, at_most(figure)))
}

/// What was promised, if anything was, and whether it is so.
pub(crate) fn at_most(figure: &Figure) -> String {
    promised("at most", figure)
}

pub(crate) fn at_least(figure: &Figure) -> String {
    promised("at least", figure)
}

fn promised(bound: &str, figure: &Figure) -> String {
    let verdict = |met: bool| if met { "met" } else { "missed" };
    match (figure.target, figure.met) {
        (Some(target), Some(met)) => format!(", {bound} {}: {}", (target * 1e4).round() / 1e4, verdict(met)),
        _ => String::new(),
    }
}
