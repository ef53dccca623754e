//! Values as people read them, and as HTML carries them safely.

use std::fmt::{self, Display, Formatter, Write};

use chrono::TimeDelta;

/// Longest value shown, in characters. Names and reasons come from etcd, where anybody with a key can put anything.
const LONGEST: usize = 240;
/// Longest verdict: there is one of it, and the cause may be at its end.
const LONGEST_VERDICT: usize = 1000;

/// Text inside an element or a quoted attribute: markup is escaped, control and direction characters are replaced, what
/// is too long is cut.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        escape(&self.0, LONGEST, f)
    }
}

/// The same for the verdict.
pub(super) struct EscapedVerdict(pub(super) String);

impl Display for EscapedVerdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        escape(&self.0, LONGEST_VERDICT, f)
    }
}

fn escape(value: &dyn Display, longest: usize, f: &mut Formatter<'_>) -> fmt::Result {
    let mut out = Escaper { f, left: longest };
    match write!(out, "{value}") {
        Err(_) if out.left == 0 => f.write_char('…'),
        other => other,
    }
}

struct Escaper<'a, 'b> {
    f: &'a mut Formatter<'b>,
    left: usize,
}

impl Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            match c {
                '<' => self.f.write_str("&lt;")?,
                '>' => self.f.write_str("&gt;")?,
                '&' => self.f.write_str("&amp;")?,
                '"' => self.f.write_str("&quot;")?,
                '\'' => self.f.write_str("&#39;")?,
                c if c.is_control() || turns_text(c) => self.f.write_char('\u{fffd}')?,
                c => self.f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Characters that change the direction of the text after them, which can make one value read as another.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `412 MiB`, `1.6 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 and not 1024: what would be printed as 1024 is one of the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 9.95);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `2d 3h`, `17h 42m`, `4m 10s`, `12s`; a negative one is `0s`.
pub fn span(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `3m 2s ago`.
pub fn ago(time: TimeDelta) -> String {
    format!("{} ago", span(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well_at_the_borders() {
        let mib = 1024 * 1024;
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 * mib, "10 MiB"),
            (1024 * mib - 1, "1.0 GiB"),
            (1717986918, "1.6 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (size, text) in cases {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn spans_read_well() {
        for (seconds, text) in [(-5, "0s"), (59, "59s"), (61, "1m 1s"), (63_720, "17h 42m"), (183_600, "2d 3h")] {
            assert_eq!(span(TimeDelta::seconds(seconds)), text);
        }
    }

    #[test]
    fn markup_cannot_leave_its_element() {
        assert_eq!(Escaped("<b a='\"'>&\n\u{202e}x").to_string(), "&lt;b a=&#39;&quot;&#39;&gt;&amp;\u{fffd}\u{fffd}x");
        let long = Escaped("é".repeat(10_000)).to_string();
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert_eq!(Escaped("x".repeat(LONGEST)).to_string().chars().count(), LONGEST);
    }
}
