//! A YAML or JSON value that keeps how its scalars were written, so that `0400`, `yes` and `"1"` stay what they are.
//!
//! Nothing is converted on the way through: a plain scalar is written back letter by letter, a quoted one stays text. What
//! a plain scalar *means* is asked only where we read it, and answered as Kubernetes does, by YAML 1.1.

use std::fmt;

/// A scalar, or the key of a map.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    /// Without quotes, escapes resolved.
    pub(super) text: String,
    /// Written without quotes: it may mean a number, a truth value or nothing.
    pub(super) plain: bool,
}

/// Any value.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Scalar, Node)>),
}

/// What a plain scalar means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Number,
    Text,
}

impl Scalar {
    pub(super) fn quoted(text: &str) -> Scalar {
        Scalar { text: text.to_owned(), plain: false }
    }

    pub(super) fn meaning(&self) -> Meaning {
        if self.plain { meaning(&self.text) } else { Meaning::Text }
    }

    fn same(&self, other: &Scalar) -> bool {
        match (self.meaning(), other.meaning()) {
            (Meaning::Null, Meaning::Null) => true,
            (Meaning::Bool(one), Meaning::Bool(two)) => one == two,
            (one, two) => one == two && self.text == other.text,
        }
    }
}

/// By YAML 1.1 and 1.2 together: whatever any reader between here and the API server takes for something else is not text.
fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Meaning::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Meaning::Bool(false);
        }
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text).replace('_', "");
    let lower = digits.to_ascii_lowercase();
    if [".inf", ".nan"].contains(&lower.as_str()) {
        return Meaning::Number;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = lower.strip_prefix(prefix) {
            let number = !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
            return if number { Meaning::Number } else { Meaning::Text };
        }
    }
    let shaped = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c));
    if shaped && digits.parse::<f64>().is_ok() { Meaning::Number } else { Meaning::Text }
}

impl Node {
    pub(super) fn text(text: &str) -> Node {
        Node::Scalar(Scalar::quoted(text))
    }

    pub(super) fn plain(value: impl fmt::Display) -> Node {
        Node::Scalar(Scalar { text: value.to_string(), plain: true })
    }

    pub(super) fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
        Node::Map(entries.into_iter().map(|(key, value)| (Scalar::quoted(key), value)).collect())
    }

    pub(super) fn texts<const N: usize>(items: [&str; N]) -> Node {
        Node::List(items.into_iter().map(Node::text).collect())
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Node::Scalar(scalar) if scalar.meaning() == Meaning::Null)
    }

    /// Whether both mean the same to Kubernetes: maps in any order, quotes where they change nothing.
    pub(super) fn same(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Scalar(one), Node::Scalar(two)) => one.same(two),
            (Node::List(one), Node::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.same(two))
            }
            (Node::Map(one), Node::Map(two)) => {
                one.len() == two.len()
                    && one.iter().all(|(key, value)| {
                        let twin = two.iter().find(|(other, _)| other.text == key.text);
                        twin.is_some_and(|(_, other)| value.same(other))
                    })
            }
            _ => false,
        }
    }

    /// The value of a key, if this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Node::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Node::Map(entries) = self else { return None };
        entries.iter_mut().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    /// Puts a value in the place of an earlier one, or last. Only maps have places.
    pub(super) fn set(&mut self, key: &str, value: Node) {
        if let Some(place) = self.get_mut(key) {
            *place = value;
        } else if let Node::Map(entries) = self {
            entries.push((Scalar::quoted(key), value));
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Node::Map(entries) = self {
            entries.retain(|(name, _)| name.text != key);
        }
    }

    pub(super) fn push(&mut self, value: Node) {
        if let Node::List(items) = self {
            items.push(value);
        }
    }

    /// The item of a list that has this name.
    pub(super) fn named_mut(&mut self, name: &str) -> Option<&mut Node> {
        let Node::List(items) = self else { return None };
        items.iter_mut().find(|item| item.is_named(name))
    }

    /// Whether this is a map with this `name`.
    pub(super) fn is_named(&self, name: &str) -> bool {
        matches!(self.get("name"), Some(Node::Scalar(scalar)) if scalar.text == name)
    }

    fn kind(&self) -> &'static str {
        match self {
            Node::List(_) => "a list",
            Node::Map(_) => "a map",
            Node::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "nothing",
                Meaning::Bool(_) => "a truth value",
                Meaning::Number => "a number",
                Meaning::Text => "text",
            },
        }
    }
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where: a path in the document, or a document and a line.
    pub(super) place: String,
    /// What is wrong there, and what to do.
    pub(super) text: String,
    /// It can be read, and is not understood or not wanted. Otherwise it is no Kubernetes object at all.
    pub(super) refused: bool,
}

impl Problem {
    pub(super) fn refused(place: &str, text: impl Into<String>) -> Problem {
        Problem { place: place.to_owned(), text: text.into(), refused: true }
    }

    pub(super) fn unreadable(place: &str, text: impl Into<String>) -> Problem {
        Problem { place: place.to_owned(), text: text.into(), refused: false }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// A value that may be absent, and where it stands. `null` is absent, as in Kubernetes.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    node: Option<&'a Node>,
    pub(super) path: String,
}

impl<'a> View<'a> {
    pub(super) fn new(node: &'a Node, path: &str) -> View<'a> {
        View { node: Some(node).filter(|node| !node.is_null()), path: path.to_owned() }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.node.is_none()
    }

    pub(super) fn node(&self) -> Option<&'a Node> {
        self.node
    }

    fn expected(&self, what: &str) -> Problem {
        let found = self.node.map_or("nothing", Node::kind);
        Problem::unreadable(&self.path, format!("expected {what}, found {found}"))
    }

    /// A field of a map; absent when the map is.
    pub(super) fn get(&self, key: &str) -> Result<View<'a>, Problem> {
        let path = format!("{}.{}", self.path, step(key));
        match self.node {
            None | Some(Node::Map(_)) => {
                let node = self.node.and_then(|node| node.get(key)).filter(|node| !node.is_null());
                Ok(View { node, path })
            }
            Some(_) => Err(self.expected("a map")),
        }
    }

    /// A field of a field of a map.
    pub(super) fn at(&self, keys: &[&str]) -> Result<View<'a>, Problem> {
        keys.iter().try_fold(self.clone(), |view, key| view.get(key))
    }

    /// The items of a list; none when it is absent.
    pub(super) fn items(&self) -> Result<Vec<View<'a>>, Problem> {
        match self.node {
            None => Ok(Vec::new()),
            Some(Node::List(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(at, item)| View::new(item, &format!("{}[{at}]", self.path)))
                .collect()),
            Some(_) => Err(self.expected("a list")),
        }
    }

    pub(super) fn text(&self) -> Result<Option<&'a str>, Problem> {
        match self.node {
            None => Ok(None),
            Some(Node::Scalar(scalar)) if scalar.meaning() == Meaning::Text => Ok(Some(&scalar.text)),
            Some(_) => Err(self.expected("text")),
        }
    }

    /// A whole number. Octal ones are refused: YAML 1.1 and 1.2 read `010` differently.
    pub(super) fn number(&self) -> Result<Option<u64>, Problem> {
        let Some(node) = self.node else { return Ok(None) };
        let number = match node {
            Node::Scalar(scalar) if scalar.plain && (scalar.text == "0" || !scalar.text.starts_with('0')) => {
                scalar.text.parse().ok()
            }
            _ => None,
        };
        number.map(Some).ok_or_else(|| self.expected("a decimal number without sign"))
    }

    pub(super) fn truth(&self) -> Result<Option<bool>, Problem> {
        match self.node {
            None => Ok(None),
            Some(Node::Scalar(scalar)) => match scalar.meaning() {
                Meaning::Bool(truth) => Ok(Some(truth)),
                _ => Err(self.expected("true or false")),
            },
            Some(_) => Err(self.expected("true or false")),
        }
    }
}

/// A key as a step of a path: those with dots in brackets.
pub(super) fn step(key: &str) -> String {
    let simple = key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let shown: String = key.chars().filter(|c| !c.is_control()).take(80).collect();
    if simple { shown } else { format!("[{shown}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubernetes_reads() {
        for text in ["", "~", "null", "NULL"] {
            assert_eq!(meaning(text), Meaning::Null, "{text}");
        }
        for (text, truth) in [("on", true), ("Yes", true), ("y", true), ("off", false), ("N", false), ("FALSE", false)]
        {
            assert_eq!(meaning(text), Meaning::Bool(truth), "{text}");
        }
        for text in ["1", "0400", "-1", "+12", "1.5", "1e3", "0x1F", "0o17", "0b11", "1_000", ".5", ".inf", "-.NaN"] {
            assert_eq!(meaning(text), Meaning::Number, "{text}");
        }
        for text in ["1.2.3", "3.5.30", "etcd", "0xyz", "1:30", "2026-11-22", "-", ".", "e3", "64Mi", "nulls", "inf"] {
            assert_eq!(meaning(text), Meaning::Text, "{text}");
        }
    }

    #[test]
    fn a_quoted_scalar_is_the_same_as_a_plain_one_only_where_both_are_text() {
        let plain = |text: &str| Node::plain(text);
        assert!(plain("etcd").same(&Node::text("etcd")));
        assert!(plain("~").same(&plain("null")));
        for text in ["1", "true", "null", "0400"] {
            assert!(!plain(text).same(&Node::text(text)), "{text}");
        }
        assert!(!plain("0400").same(&plain("400")));
    }

    #[test]
    fn a_path_is_named_where_the_type_is_wrong() {
        let node = Node::map([("spec", Node::texts(["a"])), ("n", Node::plain("010"))]);
        let view = View::new(&node, "documents[0]");
        let problem = view.at(&["spec", "template"]).unwrap_err();
        assert_eq!(problem.to_string(), "documents[0].spec: expected a map, found a list");
        assert!(view.get("n").unwrap().number().is_err());
        assert_eq!(view.at(&["x", "y"]).unwrap().text().unwrap(), None);
        assert_eq!(step("etcd-janitor/injected"), "[etcd-janitor/injected]");
    }
}
