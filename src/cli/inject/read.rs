//! From text to values: YAML through the parser that also reads the configuration, JSON through serde_json.
//!
//! What cannot be written back as it was meant (anchors, tags, duplicate keys) is a *doubt*: no reason to refuse a document
//! that passes through untouched, and a reason to refuse one that would change.

use std::collections::{HashMap, HashSet};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::TScalarStyle;

use super::node::{Node, Problem, Scalar, step};

/// Deepest nesting that is read. Custom resource definitions stay below 60.
const MAX_DEPTH: usize = 200;
/// Most values of one document, aliases counted as what they stand for: nine lines can stand for a billion.
const MAX_VALUES: usize = 2_000_000;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// What a document says.
#[derive(Debug)]
pub(super) struct Parsed {
    /// None: the document is empty.
    pub(super) node: Option<Node>,
    pub(super) format: Format,
    /// What must not be written anew.
    pub(super) doubts: Vec<Problem>,
}

/// Reads one document that is called `name`. Lines in errors are counted from `first_line`.
pub(super) fn document(text: &str, name: &str, first_line: usize) -> Result<Parsed, Problem> {
    // Not only for speed: YAML knows no pairs of surrogates, which JSON writes for whatever lies beyond 16 bits.
    let body = text.strip_prefix("---").unwrap_or(text).trim();
    if body.starts_with(['{', '['])
        && let Ok(raw) = serde_json::from_str::<&RawValue>(body)
    {
        let mut doubts = Vec::new();
        let node = json(raw, name, 0, &mut doubts)?;
        return Ok(Parsed { node: Some(node), format: Format::Json, doubts });
    }
    yaml(text, name, first_line)
}

/// One list or map that is still open.
struct Open {
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map { entries: Vec<(Scalar, Node)>, key: Option<Scalar>, seen: HashSet<String> },
}

struct Builder<'a> {
    name: &'a str,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    doubts: Vec<Problem>,
    values: usize,
}

fn yaml(text: &str, name: &str, first_line: usize) -> Result<Parsed, Problem> {
    let mut parser = Parser::new_from_str(text);
    let mut builder =
        Builder { name, open: Vec::new(), root: None, anchors: HashMap::new(), doubts: Vec::new(), values: 0 };
    loop {
        let (event, mark) = parser.next_token().map_err(|error| {
            let line = first_line + error.marker().line().saturating_sub(1);
            let hint = if text.contains("{{") { "; templates must be rendered first" } else { "" };
            Problem::unreadable(&format!("{name}, line {line}"), format!("not YAML: {}{hint}", error.info()))
        })?;
        let line = first_line + mark.line().saturating_sub(1);
        let at_line = |text: &str| Problem::unreadable(&format!("{name}, line {line}"), text);
        match event {
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart if builder.root.is_some() => return Err(at_line("a second document begins here")),
            Event::DocumentStart => {}
            Event::Alias(anchor) => {
                builder.doubt("an alias; write it out, since a changed document cannot keep it");
                let (node, size) =
                    builder.anchors.get(&anchor).cloned().ok_or_else(|| at_line("an alias to itself"))?;
                builder.count(size).map_err(at_line)?;
                builder.value(node, 0).map_err(at_line)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some() {
                    builder.doubt("a tag; leave it out, since a changed document cannot keep it");
                }
                let scalar = Scalar { text, plain: style == TScalarStyle::Plain };
                builder.scalar(scalar, anchor).map_err(at_line)?;
            }
            Event::SequenceStart(anchor, tag) => {
                builder.begin(Inside::List(Vec::new()), anchor, tag.is_some()).map_err(at_line)?;
            }
            Event::MappingStart(anchor, tag) => {
                let map = Inside::Map { entries: Vec::new(), key: None, seen: HashSet::new() };
                builder.begin(map, anchor, tag.is_some()).map_err(at_line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.end().map_err(at_line)?,
        }
    }
    let root = builder.root.filter(|root| !root.is_null());
    Ok(Parsed { node: root, format: Format::Yaml, doubts: builder.doubts })
}

impl Builder<'_> {
    fn path(&self) -> String {
        self.open.iter().fold(self.name.to_owned(), |path, open| match &open.inside {
            Inside::List(items) => format!("{path}[{}]", items.len()),
            Inside::Map { key: Some(key), .. } => format!("{path}.{}", step(&key.text)),
            Inside::Map { .. } => path,
        })
    }

    fn doubt(&mut self, text: &str) {
        let problem = Problem::refused(&self.path(), text);
        self.doubts.push(problem);
    }

    fn count(&mut self, values: usize) -> Result<(), &'static str> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES { Err("more values than any object has") } else { Ok(()) }
    }

    /// Whether the next event is a key.
    fn at_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { inside: Inside::Map { key: None, .. }, .. }))
    }

    fn begin(&mut self, inside: Inside, anchor: usize, tagged: bool) -> Result<(), &'static str> {
        if self.at_key() {
            return Err("a list or a map as a key, as in a template that is not rendered");
        }
        if self.open.len() >= MAX_DEPTH {
            return Err("nested deeper than any object");
        }
        self.count(1)?;
        if tagged {
            self.doubt("a tag; leave it out, since a changed document cannot keep it");
        }
        self.open.push(Open { anchor, inside });
        Ok(())
    }

    fn end(&mut self) -> Result<(), &'static str> {
        let Some(Open { anchor, inside }) = self.open.pop() else { return Err("something ends that did not begin") };
        let node = match inside {
            Inside::List(items) => Node::List(items),
            Inside::Map { entries, .. } => Node::Map(entries),
        };
        self.value(node, anchor)
    }

    fn scalar(&mut self, scalar: Scalar, anchor: usize) -> Result<(), &'static str> {
        self.count(1)?;
        if let Some(Open { inside: Inside::Map { key: key @ None, seen, .. }, .. }) = self.open.last_mut() {
            let fresh = seen.insert(scalar.text.clone());
            let (merge, nothing) = (scalar.plain && scalar.text == "<<", scalar.plain && scalar.text.is_empty());
            *key = Some(scalar);
            if !fresh {
                self.doubt("this key is there twice, and readers disagree on which one counts");
            }
            if merge {
                self.doubt("a merge key; write it out, since a changed document cannot keep it");
            }
            if nothing {
                self.doubt("a key that is empty");
            }
            if anchor > 0 {
                self.doubt("an anchor; write it out, since a changed document cannot keep it");
            }
            return Ok(());
        }
        self.value(Node::Scalar(scalar), anchor)
    }

    fn value(&mut self, node: Node, anchor: usize) -> Result<(), &'static str> {
        if anchor > 0 {
            self.doubt("an anchor; write it out, since a changed document cannot keep it");
            let size = size(&node);
            self.count(size)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => self.root = Some(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Map { entries, key, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => return Err("an alias as a key"),
            },
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match node {
        Node::Scalar(_) => 1,
        Node::List(items) => items.iter().map(size).sum::<usize>() + 1,
        Node::Map(entries) => entries.iter().map(|(_, value)| size(value)).sum::<usize>() + 1,
    }
}

/// A JSON object in the order in which it is written, duplicate keys included.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Numbers stay as they are written: a large one would lose digits as a float.
fn json(raw: &RawValue, path: &str, depth: usize, doubts: &mut Vec<Problem>) -> Result<Node, Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::unreadable(path, "nested deeper than any object"));
    }
    let text = raw.get();
    let wrong = |error: serde_json::Error| Problem::unreadable(path, format!("not JSON: {error}"));
    match text.bytes().next() {
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(text).map_err(wrong)?;
            let mut seen = HashSet::new();
            let mut entries = Vec::new();
            for (key, value) in fields {
                let place = format!("{path}.{}", step(&key));
                if !seen.insert(key.clone()) {
                    let text = "this key is there twice, and readers disagree on which one counts";
                    doubts.push(Problem::refused(&place, text));
                }
                entries.push((Scalar::quoted(&key), json(value, &place, depth + 1, doubts)?));
            }
            Ok(Node::Map(entries))
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(wrong)?;
            let items = items.into_iter().enumerate();
            let items = items.map(|(at, item)| json(item, &format!("{path}[{at}]"), depth + 1, doubts));
            Ok(Node::List(items.collect::<Result<_, _>>()?))
        }
        Some(b'"') => {
            let text: String = serde_json::from_str(text).map_err(|error| wrong(de::Error::custom(error)))?;
            Ok(Node::text(&text))
        }
        _ => Ok(Node::plain(text)),
    }
}

#[cfg(test)]
pub(in super::super::inject) mod tests;
