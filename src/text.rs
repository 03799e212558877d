//! Displays values for people.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// Text that came from outside, for a terminal or a line of a log: what would move a cursor, begin
/// a line or turn the direction of writing is escaped. Twice is the same as once.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|it| if is_printable(it) { f.write_char(it) } else { write!(f, "{}", it.escape_default()) })
    }
}

fn is_printable(it: char) -> bool {
    let turns = matches!(it, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(it, '\u{2028}' | '\u{2029}');
    !(it.is_control() || turns || breaks)
}

/// The beginning of a text: `max` bytes at most.
#[cfg(feature = "grpc")]
pub(crate) fn beginning(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// Bytes that belong to a user: how many there are, and never what they are.
pub(crate) struct Bulk<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Bulk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The first few values, and the number of the others.
pub(crate) fn shortened<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let more = items.len().saturating_sub(SHOWN);
    let mut text: Vec<String> = items.take(SHOWN).map(|item| item.to_string()).collect();
    if more > 0 {
        text.push(format!("and {more} more"));
    }
    text.join(", ")
}

/// A duration for people: two units at most, rounded. `30s 16ms`, `1h 30m`, `2days 4h`.
pub(crate) fn rounded(duration: Duration) -> impl fmt::Display {
    /// Each unit in nanoseconds, the largest first.
    const UNITS: [(&str, u128); 7] = [
        ("day", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let nanos = duration.as_nanos();
    let mut text = String::new();
    let Some(first) = UNITS.iter().position(|(_, unit)| nanos >= *unit) else {
        text.push_str("0s");
        return text;
    };
    // Rounded to the unit after the first; that may carry over into the first, and even into the
    // one before it.
    let last = UNITS.get(first + 1).map_or(1, |(_, unit)| *unit);
    let mut left = (nanos + last / 2) / last * last;
    for (name, unit) in &UNITS[first.saturating_sub(1)..] {
        let count = left / unit;
        left %= unit;
        if count > 0 {
            let space = if text.is_empty() { "" } else { " " };
            let plural = if *name == "day" && count > 1 { "s" } else { "" };
            // Writing to a string can't fail.
            let _ = write!(text, "{space}{count}{name}{plural}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b11_what_is_shown_moves_no_cursor_and_begins_no_line() {
        for (text, shown) in [
            ("disk full", "disk full"),
            ("W\u{f6}rter \u{2192} \\n", "W\u{f6}rter \u{2192} \\n"),
            ("a\nERROR b\r\tc", "a\\nERROR b\\r\\tc"),
            ("\u{1b}[2Jgone\u{7}", "\\u{1b}[2Jgone\\u{7}"),
            ("\u{9b}2J \u{202e}x\u{2028}y", "\\u{9b}2J \\u{202e}x\\u{2028}y"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
            assert_eq!(Printable(shown).to_string(), shown, "twice is the same as once");
        }
    }

    #[test]
    fn u10_a_duration_for_people_has_two_units_at_most_and_is_rounded() {
        for (nanos, text) in [
            (0, "0s"),
            (54, "54ns"),
            (1_499, "1us 499ns"),
            (30_015_741_054, "30s 16ms"),
            (30_000_000_000, "30s"),
            (59_999_600_000, "1m"),
            (5_400_000_000_000, "1h 30m"),
            (3_599_999_999_999, "1h"),
            (86_400_000_000_000 * 2 + 13_000_000_000_000, "2days 4h"),
            (600_000_000_000, "10m"),
        ] {
            assert_eq!(rounded(Duration::from_nanos(nanos)).to_string(), text);
        }
        assert!(rounded(Duration::MAX).to_string().contains("days"));
    }
}
