use proptest::prelude::*;

use super::super::write;
use super::*;

fn node(text: &str) -> Node {
    document(text, "d", 1).unwrap().node.unwrap()
}

fn doubts(text: &str) -> Vec<String> {
    document(text, "d", 1).unwrap().doubts.iter().map(ToString::to_string).collect()
}

fn problem(text: &str) -> String {
    document(text, "d", 1).unwrap_err().to_string()
}

#[test]
fn scalars_are_written_back_as_they_were_meant() {
    let check = |text: &str, expected: &str| {
        let written = write::yaml(&node(text));
        assert_eq!(written, expected, "{text:?}");
        assert!(node(&written).same(&node(text)), "{text:?}");
    };
    check(
        "a: 0400\nb: yes\nc: 1_000\nd: 0x1F\ne: 12345678901234567890123\n",
        "a: 0400\nb: yes\nc: 1_000\nd: 0x1F\ne: 12345678901234567890123\n",
    );
    check(
        "a: '0400'\nb: \"yes\"\nc: 'null'\nd: ''\ne: '~'\n",
        "a: \"0400\"\nb: \"yes\"\nc: \"null\"\nd: \"\"\ne: \"~\"\n",
    );
    check("a:\nb: ~\nc: null\n", "a: null\nb: ~\nc: null\n");
    check("a: |\n  x\n\n    y\n", "a: |\n  x\n\n    y\n");
    check("a: |-\n  x\n  y\n", "a: |-\n  x\n  y\n");
    check("a: |+\n  x\n\n", "a: \"x\\n\\n\"\n");
    check("a: >\n  x\n  y\n", "a: |\n  x y\n");
    check("a: \" x\\ny\"\n", "a: \" x\\ny\"\n");
    check("a: \"\\t\\u2028\\e\"\n", "a: \"\\t\\u2028\\u001b\"\n");
    check("a: one\n  two\n", "a: one two\n");
    check("a: [1, {b: 2}, []]\nc: {}\n", "a:\n- 1\n- b: 2\n- []\nc: {}\n");
    check("- - x\n  - y\n- a: 1\n  b:\n  - 2\n", "- - x\n  - y\n- a: 1\n  b:\n  - 2\n");
    check("? a\n: 1\n\"on\": 2\n'1': 3\n", "a: 1\n\"on\": 2\n\"1\": 3\n");
    check("a: |\r\n  x\r\n  y\r\nb: 1\r\n", "a: |\n  x\n  y\nb: 1\n");
}

#[test]
fn what_cannot_be_kept_is_a_doubt_with_its_place() {
    assert_eq!(doubts("a: {b: 1, b: 2}"), ["d.a.b: this key is there twice, and readers disagree on which one counts"]);
    assert_eq!(doubts("a: &x 1\nb: [0, *x]\n").len(), 2);
    assert!(doubts("a: &x 1\nb: [0, *x]\n")[1].starts_with("d.b[1]: an alias"));
    assert!(doubts("a: {<<: {b: 1}}\n")[0].starts_with("d.a.[<<]: a merge key"));
    assert!(doubts("a: !!str 1\n")[0].contains("a tag"));
    assert!(doubts("{\"a\": 1, \"a\": 2}")[0].starts_with("d.a: this key is there twice"));
    assert_eq!(doubts("a: '{{ x }}'\nb: \"&x *y\"\n"), Vec::<String>::new());
}

#[test]
fn an_alias_means_what_it_stands_for_and_a_bomb_does_not_go_off() {
    assert!(node("a: &x {b: [1]}\nc: *x\n").same(&node("a: {b: [1]}\nc: {b: [1]}\n")));
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let above = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{above}"); 10].join(",")));
    }
    assert!(problem(&bomb).contains("more values than any object has"), "{}", problem(&bomb));
}

#[test]
fn what_is_no_yaml_is_refused_with_its_line() {
    assert!(problem("a: 1\nb: {{ .Values.x }}\n").contains("d, line 2: a list or a map as a key"));
    assert!(problem("a: 1\n{{- if .x }}\nb: 2\n").contains("template"));
    assert!(problem("a: 1\n\tb: 2\n").ends_with("found a tab"), "{}", problem("a: 1\n\tb: 2\n"));
    assert!(problem("a: 'x\n").starts_with("d, line "));
    assert!(problem("a: *nobody\n").contains("not YAML"));
    assert!(problem(&"[".repeat(100_000)).contains("not YAML"), "the parser has a limit of its own");
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    assert!(problem(&deep).contains("nested deeper"));
    assert_eq!(document("a: 1\nb: [\n", "d", 10).unwrap_err().place, "d, line 12");
}

#[test]
fn json_keeps_its_numbers_its_order_and_what_lies_beyond_sixteen_bits() {
    let text =
        r#"{"z":1.0,"a":12345678901234567890123,"e":1E400,"s":"\ud83d\ude00 \u00e9","t":true,"n":null,"l":[],"m":{}}"#;
    let parsed = document(text, "d", 1).unwrap();
    assert_eq!(parsed.format, Format::Json);
    let written = write::json(&parsed.node.unwrap(), false);
    assert_eq!(
        written,
        "{\"z\":1.0,\"a\":12345678901234567890123,\"e\":1E400,\"s\":\"😀 é\",\"t\":true,\"n\":null,\"l\":[],\"m\":{}}\n"
    );
    assert_eq!(document("---\n{\"a\": \"\\ud83d\\ude00\"}\n", "d", 1).unwrap().format, Format::Json);
    assert_eq!(document("{a: 1} # flow", "d", 1).unwrap().format, Format::Yaml);
}

#[test]
fn an_empty_document_is_none() {
    for text in ["", "---\n", "--- # c\n# d\n", "---\n...\n", "~\n", "\n\n"] {
        assert!(document(text, "d", 1).unwrap().node.is_none(), "{text:?}");
    }
}

/// Any text, weighted towards what YAML reads in a special way.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "[a-z:#{}'\" \\-?&*!|>%@`,\\[\\]\n\t]{0,12}",
        "[0-9._eExXo+:-]{1,8}",
        "\\PC{0,6}",
        prop::sample::select(vec![
            "yes", "null", "~", "---", "...", "<<", "=", "a\n\nb\n", "\n", " ", "\r\n", "{{ x }}"
        ])
        .prop_map(str::to_owned),
    ]
}

pub(in super::super) fn any_node() -> impl Strategy<Value = Node> {
    let plain = prop::sample::select(vec!["1", "0400", "yes", "~", "null", "1e3", "x", "a b", "-1", "0x1F"]);
    let leaf = prop_oneof![any_text().prop_map(|text| Node::text(&text)), plain.prop_map(Node::plain)];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Node::List),
            prop::collection::btree_map(any_text(), inner, 0..5).prop_map(|map| {
                Node::Map(map.into_iter().map(|(key, value)| (Scalar::quoted(&key), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_reads_as_it_was_meant(node in any_node()) {
        let text = write::yaml(&node);
        let again = document(&text, "d", 1).map_err(|problem| TestCaseError::fail(format!("{problem}\n{text}")))?;
        let again = again.node.unwrap_or_else(|| Node::plain("null"));
        prop_assert!(again.same(&node), "{text}");
        // A document that says nothing is no document.
        prop_assert!(node.is_null() || write::yaml(&again) == text, "{}", text);
    }

    #[test]
    fn one_line_reads_as_it_was_meant(node in any_node()) {
        let text = write::one_line(&node);
        let again = document(&text, "d", 1).map_err(|problem| TestCaseError::fail(format!("{problem}\n{text}")))?;
        prop_assert!(again.node.unwrap_or_else(|| Node::plain("null")).same(&node), "{}", text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z0-9:#{}'\" \\-?&*!|>%@`,\\[\\]\n\t~<.]{0,60}") {
        let _ = document(&text, "d", 1);
        let _ = document(&format!("--- {text}"), "d", 1);
    }
}
