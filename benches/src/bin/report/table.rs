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

    /// Without columns that have nothing but a heading.
    pub(crate) fn markdown(&self) -> String {
        let mut lines = vec![String::new(); self.rows.len() + 1];
        for column in 0..self.rows.first().map_or(0, Vec::len) {
            let cells = self.rows.iter().map(|row| row.get(column).map_or("", String::as_str));
            if column > 0 && cells.clone().skip(1).all(str::is_empty) {
                continue;
            }
            let width = cells.clone().map(|cell| cell.chars().count()).max().unwrap_or_default().max(2);
            let pad = |cell| if column == 0 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            let mut padded: Vec<String> = cells.map(pad).collect();
            padded.insert(1, format!("|{}{}", "-".repeat(width + 1), if column == 0 { "-" } else { ":" }));
            lines.iter_mut().zip(padded).for_each(|(line, cell)| line.push_str(&cell));
        }
        lines.iter().fold("\n".to_owned(), |text, line| text + line + "|\n")
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
