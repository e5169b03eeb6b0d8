//! Bars, as SVG.

use std::fmt::Write as _;

const LEFT: f64 = 220.0;
const WIDTH: f64 = 460.0;
const ROW: f64 = 26.0;
const TOP: f64 = 58.0;

pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: f64,
    pub(crate) ours: bool,
}

pub(crate) enum Scale {
    Linear,
    /// In decades, from one that all values are above.
    Logarithmic,
}

pub(crate) fn svg(title: &str, subtitle: &str, scale: Scale, bars: &[Bar]) -> String {
    let values = || bars.iter().map(|bar| bar.value);
    let most = values().fold(f64::MIN_POSITIVE, f64::max);
    // Where the axis is marked, and how far a value is on the way along it.
    let (marks, place): (Vec<f64>, Box<dyn Fn(f64) -> f64>) = match scale {
        Scale::Linear => {
            let step = 10_f64.powf(most.log10().floor());
            let step = if most / step < 3.0 { step / 2.0 } else { step };
            let last = (most / step).ceil();
            (
                (0..=last as u32).map(|number| f64::from(number) * step).collect(),
                Box::new(move |value| value / (last * step)),
            )
        }
        Scale::Logarithmic => {
            let first = values().fold(1.0, f64::min).log10().floor();
            let decades = (most.log10().ceil() - first).max(1.0);
            let marks = (0..=decades as u32).map(|number| 10_f64.powf(first + f64::from(number))).collect();
            (marks, Box::new(move |value| (value.log10() - first) / decades))
        }
    };
    let height = TOP + ROW * bars.len() as f64 + 24.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">{}</text>\n\
         <text x=\"10\" y=\"38\" fill=\"#666\" font-size=\"12\">{}; medians</text>\n",
        escape(title),
        escape(subtitle),
    );
    // Writing to a string does not fail.
    for mark in marks {
        let x = LEFT + place(mark) * WIDTH;
        let (top, bottom, below) = (TOP - 6.0, height - 22.0, height - 8.0);
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {top} V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\" fill=\"#666\">{mark}</text>",
        );
    }
    for (number, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * number as f64;
        let base = top + 14.0;
        let (name, color) = (escape(bar.name), if bar.ours { "#1a7f4b" } else { "#9aa7b2" });
        let width = (place(bar.value) * WIDTH).max(1.0);
        let (before, behind) = (LEFT - 8.0, LEFT + width + 6.0);
        let _ = writeln!(
            text,
            "<text x=\"{before}\" y=\"{base}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>\
             <text x=\"{behind:.1}\" y=\"{base}\">{:.2}</text>",
            bar.value,
        );
    }
    text.push_str("</svg>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
