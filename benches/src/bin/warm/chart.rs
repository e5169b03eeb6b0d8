//! Bars, for the README.

use std::fmt::Write as _;

use crate::contender::OURS;
use crate::measure::Line;

const LEFT: f64 = 220.0;
const WIDTH: f64 = 460.0;
const ROW: f64 = 26.0;
const TOP: f64 = 58.0;

/// Medians on a logarithmic axis, from the floor to the slowest.
pub(crate) fn svg(title: &str, machine: &str, lines: &[Line]) -> String {
    let milliseconds = |line: &Line| line.median.as_secs_f64() * 1e3;
    let most = lines.iter().map(milliseconds).fold(1.0, f64::max).log10().ceil();
    let least = lines.iter().map(milliseconds).fold(1.0, f64::min).log10().floor();
    let place = |value: f64| (value.log10() - least) / (most - least).max(1.0) * WIDTH;
    let height = TOP + ROW * lines.len() as f64 + 24.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">From image to program and back, milliseconds: {}</text>\n\
         <text x=\"10\" y=\"38\" fill=\"#666\">{}; medians, logarithmic</text>\n",
        escape(title),
        escape(machine),
    );
    let mut decade = least;
    while decade <= most {
        let x = LEFT + place(10_f64.powf(decade));
        let bottom = height - 22.0;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "<path d=\"M{x} {} V{bottom}\" stroke=\"#ddd\"/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
            TOP - 6.0,
            height - 8.0,
            10_f64.powf(decade),
        );
        decade += 1.0;
    }
    for (number, line) in lines.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let color = if line.name == OURS { "#1a7f4b" } else { "#9aa7b2" };
        let width = place(milliseconds(line)).max(1.0);
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" \
             fill=\"{color}\"/><text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
            LEFT - 8.0,
            y + 14.0,
            escape(line.name),
            LEFT + width + 6.0,
            y + 14.0,
            milliseconds(line),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
