//! How strings, sizes and times look to a person.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

/// `text` on one line and without anything that a terminal would act on: images and engines choose many of the strings that
/// are printed.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(tame) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match c {
        '\n' | '\r' | '\t' => " ".to_owned(),
        c if tame(c) => c.to_string(),
        c => c.escape_unicode().to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// A document for programs, that a person may look at too: JSON itself leaves some of what terminals act on as it is.
pub(crate) fn pretty(value: &Value) -> String {
    let escape = |c: char| if c == '\n' || tame(c) { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    format!("{value:#}").chars().map(escape).collect()
}

/// Whether a terminal only shows it. U+202A..U+202E and U+2066..U+2069 turn the direction of writing around.
fn tame(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first `width` characters, the last of them `…` when something was cut off.
pub(crate) fn truncated(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().take(width.saturating_sub(1)).chain(['…']).collect())
}

/// `12.3 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be rounded to 1024 of one unit is one of the next.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// `1.2 ms`, `3.45 s`.
pub(crate) fn elapsed(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds < 1000.0 { format!("{milliseconds:.1} ms") } else { format!("{:.2} s", duration.as_secs_f64()) }
}

/// `1 layer`, `2 layers`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_safe_from_what_images_say() {
        assert_eq!(printable("RUN apt-get update"), "RUN apt-get update");
        assert_eq!(printable("a\nb\tc"), "a b c");
        assert_eq!(printable("\u{1b}]0;x\u{7}"), "\\u{1b}]0;x\\u{7}");
        assert_eq!(printable("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(printable("naïve ☃"), "naïve ☃");
        let value = serde_json::json!({"a": "\u{1b}\u{7f}\u{9b}31m\u{202e}é\n"});
        let text = pretty(&value);
        assert!(text.lines().count() == 3 && text.chars().all(|c| c == '\n' || tame(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn sizes_and_times() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(elapsed(Duration::from_micros(1234)), "1.2 ms");
        assert_eq!(elapsed(Duration::from_millis(12_345)), "12.35 s");
        assert_eq!(counted(1, "layer"), "1 layer");
        assert_eq!(counted(0, "layer"), "0 layers");
    }

    #[test]
    fn truncation_counts_characters() {
        assert_eq!(truncated("snow ☃", 6), "snow ☃");
        assert_eq!(truncated("snow ☃!", 6), "snow …");
        assert_eq!(truncated("ab", 0), "…");
    }
}
