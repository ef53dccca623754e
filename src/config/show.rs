//! The configuration in force as YAML, each key with its origin. Reading it back gives the same configuration.

use super::Effective;
use super::keys;
use super::value::Raw;

/// Two spaces a level, a comment behind every key.
pub fn yaml(effective: &[Effective]) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for one in effective {
        let mut sections: Vec<&str> = one.path.split('.').collect();
        let name = sections.pop().unwrap_or_default();
        let common = open.iter().zip(&sections).take_while(|(a, b)| a == b).count();
        for (depth, section) in sections.iter().enumerate().skip(common) {
            text.push_str(&format!("{}{section}:\n", "  ".repeat(depth)));
        }
        let indent = "  ".repeat(sections.len());
        text.push_str(&format!("{indent}{name}: {} # {}\n", literal(one), one.origin));
        open = sections;
    }
    text
}

/// The value as YAML reads it back.
fn literal(one: &Effective) -> String {
    let plain = keys::find(one.path).is_some_and(|key| key.spec().is_plain());
    match &one.raw {
        // An empty word is nothing to YAML.
        Raw::Text(text) if plain && !text.is_empty() => text.clone(),
        Raw::Text(text) => quoted(text),
        Raw::Plain(text) => text.clone(),
        Raw::List(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| match item {
                    Raw::Text(text) | Raw::Plain(text) => quoted(text),
                    Raw::List(_) | Raw::Nothing => quoted(""),
                })
                .collect();
            format!("[{}]", items.join(", "))
        }
        Raw::Nothing => quoted(""),
    }
}

/// JSON's strings are YAML's double-quoted ones.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
