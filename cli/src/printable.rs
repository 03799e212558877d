//! Text from elsewhere on a terminal.

use std::fmt::{self, Write as _};

/// Names of jobs and errors come from elsewhere: what could move the cursor, start a line or turn
/// the direction of writing is escaped.
pub(crate) struct Printable<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            let turns = matches!(
                c,
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
            );
            if c.is_control() || turns { write!(f, "{}", c.escape_unicode())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Printable;

    #[test]
    fn a_hostile_name_can_not_move_the_cursor() {
        let text = Printable("a\u{1b}[2J\n\u{202e}b`<script>ü").to_string();
        assert_eq!(text, r"a\u{1b}[2J\u{a}\u{202e}b`<script>ü");
    }
}
