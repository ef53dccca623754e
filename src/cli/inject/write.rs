//! From values to text: block YAML as kubectl writes it, or JSON.

use super::node::{Meaning, Node, Scalar};

/// A document in block style: lists at the indentation of their key, two spaces a step, a newline at the end.
pub(super) fn yaml(node: &Node) -> String {
    let mut out = String::new();
    block(node, 0, true, &mut out);
    out
}

/// Continues the line that `out` ends with; `fresh`: it is empty but for indentation.
fn block(node: &Node, indent: usize, fresh: bool, out: &mut String) {
    match node {
        Node::Map(entries) if !entries.is_empty() => {
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 || !fresh {
                    pad(indent, out);
                }
                scalar(key, indent, true, out);
                out.push(':');
                match value {
                    Node::Map(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(value, indent + 2, false, out);
                    }
                    Node::List(items) if !items.is_empty() => {
                        out.push('\n');
                        block(value, indent, false, out);
                    }
                    _ => {
                        out.push(' ');
                        block(value, indent + 2, true, out);
                    }
                }
            }
        }
        Node::List(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 || !fresh {
                    pad(indent, out);
                }
                out.push_str("- ");
                block(item, indent + 2, true, out);
            }
        }
        Node::Map(_) => out.push_str("{}\n"),
        Node::List(_) => out.push_str("[]\n"),
        Node::Scalar(value) => {
            scalar(value, indent, false, out);
            out.push('\n');
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(scalar: &Scalar, indent: usize, key: bool, out: &mut String) {
    let text = &scalar.text;
    // Folded over several lines, a plain scalar is text whatever it says.
    if scalar.plain && !text.contains('\n') {
        out.push_str(if text.is_empty() { "null" } else { text });
    } else if evidently_text(text) {
        out.push_str(text);
    } else if !key && literal(text) {
        out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                pad(indent.max(2), out);
                out.push_str(line);
            }
        }
    } else {
        quoted(text, out);
    }
}

/// Text that needs no quotes under any version of YAML.
fn evidently_text(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
        && Scalar { text: text.to_owned(), plain: true }.meaning() == Meaning::Text
}

/// Whether a literal block says exactly this: at most one newline at the end, no space where a reader would count it as
/// indentation, nothing that needs an escape.
fn literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let odd = |c: char| (c.is_control() && c != '\n') || ['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'].contains(&c);
    text.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && !body.is_empty()
        && !text.contains(odd)
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // Line breaks to some readers of YAML, and the mark that only begins a file.
            c if c.is_control() || ['\u{2028}', '\u{2029}', '\u{feff}'].contains(&c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A document as JSON, a newline at the end; indented by four spaces as kubectl does, or on one line.
pub(super) fn json(node: &Node, indented: bool) -> String {
    let mut out = String::new();
    flow(node, indented.then_some(0), &mut out);
    out.push('\n');
    out
}

/// On one line: what is text in quotes, everything else letter by letter. JSON wherever the values are JSON's.
pub(super) fn one_line(node: &Node) -> String {
    let mut out = String::new();
    flow(node, None, &mut out);
    out
}

fn flow(node: &Node, level: Option<usize>, out: &mut String) {
    let inner = level.map(|level| level + 1);
    let line = |level: Option<usize>, out: &mut String| {
        if let Some(level) = level {
            out.push('\n');
            pad(4 * level, out);
        }
    };
    match node {
        Node::Scalar(scalar) if scalar.meaning() == Meaning::Null => out.push_str("null"),
        Node::Scalar(scalar) if scalar.meaning() != Meaning::Text => out.push_str(&scalar.text),
        Node::Scalar(scalar) => quoted(&scalar.text, out),
        Node::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                line(inner, out);
                flow(item, inner, out);
            }
            if !items.is_empty() {
                line(level, out);
            }
            out.push(']');
        }
        Node::Map(entries) => {
            out.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                line(inner, out);
                quoted(&key.text, out);
                out.push_str(if level.is_some() { ": " } else { ":" });
                flow(value, inner, out);
            }
            if !entries.is_empty() {
                line(level, out);
            }
            out.push('}');
        }
    }
}
