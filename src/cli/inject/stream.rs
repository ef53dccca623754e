//! A stream of documents, cut where `---` and `...` stand, or one JSON object ends, and put together again byte for byte.

use serde_json::value::RawValue;

/// One document with its markers and comments; all of them together are the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    /// Of its first line in the stream, from 1.
    pub(super) line: usize,
}

/// Cuts a stream. At the beginning of a line a marker is one, whatever surrounds it: YAML forbids it even in block scalars.
pub(super) fn cut(stream: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut from_line, mut at) = (0, 1, 0);
    for (number, line) in stream.split_inclusive('\n').enumerate() {
        if marks(line, "---") && at > from {
            pieces.push(Piece { text: &stream[from..at], line: from_line });
            (from, from_line) = (at, number + 1);
        }
        at += line.len();
        if marks(line, "...") {
            pieces.push(Piece { text: &stream[from..at], line: from_line });
            (from, from_line) = (at, number + 2);
        }
    }
    if at > from {
        pieces.push(Piece { text: &stream[from..at], line: from_line });
    }
    pieces.into_iter().flat_map(objects).collect()
}

/// JSON objects that follow each other without a marker, as kubectl takes them and `jq` writes them.
fn objects(piece: Piece<'_>) -> Vec<Piece<'_>> {
    let body = piece.text.strip_prefix("---").unwrap_or(piece.text).trim_start();
    let begin = piece.text.len() - body.len();
    let mut ends = Vec::new();
    if body.starts_with('{') {
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<&RawValue>();
        while let Some(value) = values.next() {
            // Whatever else it may be, it is not cut: flow style of YAML looks like JSON.
            if !value.is_ok_and(|value| value.get().starts_with('{')) {
                return vec![piece];
            }
            ends.push(begin + values.byte_offset());
        }
    }
    // What follows the last one belongs to it.
    ends.pop();
    let mut pieces = Vec::new();
    let (mut from, mut line) = (0, piece.line);
    for end in ends {
        let text = &piece.text[from..end];
        pieces.push(Piece { text, line });
        (from, line) = (end, line + text.matches('\n').count());
    }
    pieces.push(Piece { text: &piece.text[from..], line });
    pieces
}

fn marks(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('#')
}

impl<'a> Piece<'a> {
    /// Nothing but directives, comments and blank lines: what stands before the first `---`.
    pub(super) fn is_prologue(&self) -> bool {
        self.text.lines().all(|line| is_comment(line) || line.starts_with('%'))
    }

    /// Whether directives such as `%TAG` tell how to read what follows.
    pub(super) fn has_directives(&self) -> bool {
        self.text.lines().any(|line| line.starts_with('%'))
    }

    /// The piece with another content. Markers, and comments above and below the content, stay.
    pub(super) fn with(&self, content: &str) -> String {
        let lines: Vec<&str> = self.text.split_inclusive('\n').collect();
        let mut head = String::new();
        let mut rest = lines.as_slice();
        if let Some((first, after)) = rest.split_first()
            && marks(first, "---")
        {
            let beside = first.get(3..).unwrap_or_default().trim();
            head.push_str(if beside.is_empty() || beside.starts_with('#') { first } else { "---\n" });
            // The rest of a first line such as `--- {` is content; so is all that follows, comments inside it too.
            rest = if beside.is_empty() || beside.starts_with('#') { after } else { &[] };
        }
        while let Some((line, after)) = rest.split_first()
            && is_comment(line)
        {
            head.push_str(line);
            rest = after;
        }
        let mut tail: Vec<&str> = Vec::new();
        let terminator = lines.last().copied().filter(|line| marks(line, "..."));
        if terminator.is_some()
            && let Some((_, before)) = rest.split_last()
        {
            rest = before;
        }
        while let Some((line, before)) = rest.split_last()
            && is_comment(line)
        {
            tail.push(line);
            rest = before;
        }
        // Blank lines directly below the content may belong to a block scalar; the writer says them again.
        while tail.last().is_some_and(|line| line.trim().is_empty()) {
            tail.pop();
        }
        let tail: String = tail.into_iter().rev().chain(terminator).collect();
        let content = if self.text.contains("\r\n") { content.replace('\n', "\r\n") } else { content.to_owned() };
        format!("{head}{content}{tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_at_markers_and_loses_nothing() {
        let stream = "# a\n---\nx: 1\n--- # b\ny: |\n  ---\n...\n\nz: ---x\n---\n---\n";
        let pieces = cut(stream);
        assert_eq!(pieces.iter().map(|piece| piece.text).collect::<String>(), stream);
        let texts: Vec<&str> = pieces.iter().map(|piece| piece.text).collect();
        assert_eq!(texts, ["# a\n", "---\nx: 1\n", "--- # b\ny: |\n  ---\n...\n", "\nz: ---x\n", "---\n", "---\n"]);
        assert_eq!(pieces.iter().map(|piece| piece.line).collect::<Vec<_>>(), [1, 2, 4, 8, 10, 11]);
        assert!(pieces[0].is_prologue() && !pieces[3].is_prologue());
    }

    #[test]
    fn json_objects_need_no_markers_between_them() {
        let texts = |stream| cut(stream).into_iter().map(|piece| (piece.text, piece.line)).collect::<Vec<_>>();
        assert_eq!(
            texts("---\n{\"a\": {}}\n{}{\"b\": \"}\"}\n"),
            [("---\n{\"a\": {}}", 1), ("\n{}", 2), ("{\"b\": \"}\"}\n", 3)]
        );
        for whole in ["{}\n", "{a: 1}\n", "{}\n[]\n", "{}\nx: 1\n", "[]\n{}\n"] {
            assert_eq!(texts(whole), [(whole, 1)]);
        }
    }

    #[test]
    fn comments_around_the_content_stay() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Piece { text, line: 1 }.with("new: 1\n"), expected, "{text:?}");
        };
        check("a: 1\n", "new: 1\n");
        check("--- # x\n# Source: y\n\na: 1 # gone\n\n# below\n\n", "--- # x\n# Source: y\n\nnew: 1\n# below\n\n");
        check("--- {a: 1}\n", "---\nnew: 1\n");
        check("---\na: 1\n# c\n...\n", "---\nnew: 1\n# c\n...\n");
        check("---\r\na: 1\r\n", "---\r\nnew: 1\r\n");
        check("---\na: |+\n  x\n\n\n", "---\nnew: 1\n");
    }
}
