//! A JSON document as YAML, for `-o yaml`: every string quoted as JSON does, so that nothing is taken for something else.

use serde_json::Value;

/// The document, with a line feed at its end.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out.trim_start_matches('\n').to_owned()
}

/// Behind a key or a dash: a scalar on the same line, anything else on lines of its own.
fn write(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 || out.ends_with('\n') {
                    indent(out, depth);
                }
                out.push_str(&self::key(key));
                out.push(':');
                write(out, value, depth + 1);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            for value in list {
                indent(out, depth);
                out.push('-');
                write(out, value, depth + 1);
            }
        }
        // JSON's scalars, empty lists and empty maps are YAML's.
        scalar => {
            out.push(' ');
            out.push_str(&scalar.to_string());
            out.push('\n');
        }
    }
}

/// Fields of records come from etcd and may be called anything.
fn key(key: &str) -> String {
    let plain =
        key.starts_with(|c: char| c.is_ascii_lowercase()) && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if plain { key.to_owned() } else { Value::from(key).to_string() }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_something_else() {
        let value = serde_json::json!({
            "a": "yes", "b": [1, null, { "c": "x: y\n", "d": [] }], "e": {}, "f": { "g": true, "a b:": "007" }
        });
        let text = yaml(&value);
        let expected = "a: \"yes\"\nb:\n  - 1\n  - null\n  -\n    c: \"x: y\\n\"\n    d: []\ne: {}\nf:\n  \"a b:\": \"007\"\n  g: true\n";
        assert_eq!(text, expected);
    }
}
