//! Columns.

use std::io::{self, Write};

use crate::text::printable;

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    heading: &'static str,
    align: Align,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// What stands between two columns.
const GAP: &str = "  ";

impl Table {
    /// A heading that begins with `>` makes a column of numbers, aligned to the right.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => Column { heading, align: Align::Right },
            None => Column { heading, align: Align::Left },
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. Cells may hold anything: what a terminal would act on is taken out.
    pub(crate) fn row<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(|cell| printable(cell.as_ref()).into_owned()).collect());
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |(index, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            cells.chain([column.heading.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let headings: Vec<&str> = self.columns.iter().map(|column| column.heading).collect();
        self.write_row(out, &widths, &headings)?;
        self.rows.iter().try_for_each(|row| self.write_row(out, &widths, row))
    }

    fn write_row<C: AsRef<str>>(&self, out: &mut dyn Write, widths: &[usize], cells: &[C]) -> io::Result<()> {
        let padded = cells.iter().zip(&self.columns).zip(widths).map(|((cell, column), width)| match column.align {
            Align::Left => format!("{:<width$}", cell.as_ref()),
            Align::Right => format!("{:>width$}", cell.as_ref()),
        });
        writeln!(out, "{}", padded.collect::<Vec<_>>().join(GAP).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">SIZE", "COMMAND"]);
        table.row(["a", "1", "RUN\nx"]);
        table.row(["a-long-name", "1000000", ""]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let expected = "\
NAME            SIZE  COMMAND
a                  1  RUN x
a-long-name  1000000
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
