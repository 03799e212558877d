//! How values are shown to people.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// The first few, and how many more there are.
pub(crate) fn shortened<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let more = items.len().saturating_sub(SHOWN);
    let mut text: Vec<String> = items.take(SHOWN).map(|item| item.to_string()).collect();
    if more > 0 {
        text.push(format!("and {more} more"));
    }
    text.join(", ")
}

/// Text from elsewhere, such as an error of a worker, for a terminal or a page: whatever could
/// move the cursor, start a line or turn the direction of writing is escaped, and the text is cut.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl Printable<'_> {
    /// Characters of one text.
    const LONGEST: usize = 400;
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, c) in self.0.chars().enumerate() {
            let turns =
                matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
            if at == Self::LONGEST {
                return f.write_char('…');
            } else if c.is_control() || turns {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
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
    // Rounded to the unit after the first; that may carry over into the first, and even into the one before it.
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
