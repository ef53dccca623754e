//! What the output goes to: how wide it is and whether it shows colours. And the columns written to it.

use std::io::{self, IsTerminal, Write};

use crate::http::Level;

/// Where the output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line; none: lines are not cut.
    pub width: Option<usize>,
    /// Whether it shows colours.
    pub colour: bool,
    /// Whether it can be cleared.
    pub terminal: bool,
}

impl Screen {
    /// A pipe or a file.
    pub const PLAIN: Screen = Screen { width: None, colour: false, terminal: false };

    /// Standard output as it is now: a window may change its size.
    pub fn of_stdout() -> Screen {
        let out = io::stdout();
        if !out.is_terminal() {
            return Screen::PLAIN;
        }
        // https://no-color.org: set and not empty.
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let told = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
        // `kubectl exec` without a size of its own tells 0.
        Screen { width: told.filter(|width| *width > 0), colour: !set("NO_COLOR") && !dumb, terminal: true }
    }

    /// `text`, coloured where colours are shown. The text itself must say the same.
    pub fn paint(self, level: Level, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match level {
            Level::Well => "32",
            Level::Working => "34",
            Level::Attention => "33",
            Level::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One cell.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    level: Option<Level>,
}

impl Cell {
    /// With a colour where there are any.
    pub fn marked(level: Level, text: impl Into<String>) -> Cell {
        Cell { text: text.into(), level: Some(level) }
    }

    /// What it says, if that is longer than `room`.
    pub fn longer_than(&self, room: usize) -> Option<&str> {
        (self.text.chars().count() > room).then_some(&self.text)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), level: None }
    }
}

/// A column and how readily it goes when the screen is narrow.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// In capitals, as kubectl has it.
    pub name: &'static str,
    /// The highest goes first; 0 stays.
    pub expendable: u8,
}

/// A column that stays.
pub const fn column(name: &'static str) -> Column {
    Column { name, expendable: 0 }
}

/// A column that goes, the higher the sooner.
pub const fn optional(name: &'static str, expendable: u8) -> Column {
    Column { name, expendable }
}

const GAP: usize = 3;

/// What the last column, which is cut, asks for at most: one long text must not cost all rows a column.
const LAST: usize = 16;

/// Left-aligned columns, three spaces apart. On a narrow screen columns are left out, the most expendable first; then
/// the last one is cut, to as many characters as are returned. What is cut or left out is to be said elsewhere.
pub fn columns(screen: Screen, columns: &[Column], rows: &[Vec<Cell>], out: &mut impl Write) -> io::Result<usize> {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count());
            cells.chain([column.name.chars().count()]).max().unwrap_or_default()
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    if let Some(limit) = screen.width {
        let wanted = |at: usize| match at + 1 == columns.len() {
            true => widths[at].min(LAST.max(columns[at].name.chars().count())),
            false => widths[at],
        };
        let total = |shown: &[usize]| shown.iter().map(|at| wanted(*at) + GAP).sum::<usize>().saturating_sub(GAP);
        while total(&shown) > limit {
            let most = shown.iter().copied().filter(|at| columns[*at].expendable > 0);
            let Some(most) = most.max_by_key(|at| columns[*at].expendable) else { break };
            shown.retain(|at| *at != most);
        }
    }
    let before: usize = shown.iter().rev().skip(1).map(|at| widths[*at] + GAP).sum();
    let room = screen.width.map_or(usize::MAX, |limit| limit.saturating_sub(before));
    let names: Vec<Cell> = columns.iter().map(|column| column.name.into()).collect();
    for row in [&names].into_iter().chain(rows) {
        let mut line = String::new();
        for (place, at) in shown.iter().enumerate() {
            let Some(cell) = row.get(*at) else { continue };
            let last = place + 1 == shown.len();
            let text = if last { cut(&cell.text, room) } else { cell.text.clone() };
            let length = text.chars().count();
            line.push_str(&cell.level.map_or_else(|| text.clone(), |level| screen.paint(level, &text)));
            if !last {
                line.extend(std::iter::repeat_n(' ', widths[*at] + GAP - length));
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(room)
}

/// At most `room` characters, with a sign that there were more.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Words in lines of at most the screen's width, behind `used` characters of the first; the others begin with two spaces.
pub fn wrap(screen: Screen, mut used: usize, text: &str) -> String {
    let Some(limit) = screen.width else { return text.to_owned() };
    let mut lines = String::new();
    let mut begun = false;
    for word in text.split(' ') {
        let length = word.chars().count();
        if begun && used + 1 + length > limit {
            lines.push_str("\n  ");
            used = 2;
        } else if begun {
            lines.push(' ');
            used += 1;
        }
        begun = true;
        lines.push_str(word);
        used += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>) -> String {
        let screen = Screen { width, ..Screen::PLAIN };
        let heads = [column("NAME"), optional("SIZE", 1), optional("AGE", 2), column("STATE")];
        let rows = [
            vec!["etcd-0".into(), "1 MiB".into(), "3s".into(), Cell::marked(Level::Bad, "does not answer at all")],
            vec!["é".into(), "".into(), "".into(), "idle".into()],
        ];
        let mut out = Vec::new();
        columns(screen, &heads, &rows, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_narrow_screen_loses_what_is_expendable_first() {
        assert!(
            table(None).starts_with("NAME     SIZE    AGE   STATE\netcd-0   1 MiB   3s    does not answer at all\n")
        );
        // A long text costs no column: it is cut.
        let cut = "NAME     SIZE    AGE   STATE\netcd-0   1 MiB   3s    does not answer…\n";
        assert!(table(Some(39)).starts_with(cut), "{}", table(Some(39)));
        assert!(table(Some(38)).starts_with("NAME     SIZE    STATE\n"));
        assert!(table(Some(32)).starts_with("NAME     STATE\netcd-0   does not answer at all\n"));
        assert_eq!(table(Some(20)), "NAME     STATE\netcd-0   does not a…\né        idle\n");
        for width in 0..60 {
            let cut = table(Some(width));
            assert!(cut.lines().all(|line| line.chars().count() <= width.max(10)), "{width}: {cut}");
        }
    }

    #[test]
    fn colour_says_nothing_that_the_text_does_not() {
        let colour = Screen { colour: true, ..Screen::PLAIN };
        assert_eq!(Screen::PLAIN.paint(Level::Bad, "bad"), "bad");
        assert_eq!(colour.paint(Level::Bad, "bad"), "\x1b[1;31mbad\x1b[0m");
    }

    #[test]
    fn words_are_wrapped_and_never_lost() {
        let text = "hint: give etcd's liveness probe more time";
        assert_eq!(wrap(Screen::PLAIN, 0, text), text);
        let wrapped = wrap(Screen { width: Some(20), ..Screen::PLAIN }, 0, text);
        assert_eq!(wrapped, "hint: give etcd's\n  liveness probe\n  more time");
        let wrapped = wrap(Screen { width: Some(20), ..Screen::PLAIN }, 8, text);
        assert_eq!(wrapped, "hint: give\n  etcd's liveness\n  probe more time");
        let narrow = wrap(Screen { width: Some(1), ..Screen::PLAIN }, 0, text);
        assert_eq!(narrow.split_whitespace().collect::<Vec<_>>().join(" "), text);
    }
}
