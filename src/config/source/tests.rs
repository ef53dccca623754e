use super::*;

#[test]
fn what_would_exhaust_the_parser_is_refused_before_it() {
    let refused = [
        "[".repeat(40),
        "{".repeat(MAX_FILE),
        "- ".repeat(50),
        "? ".repeat(50),
        "a: &x [1]\nb: *x\n".to_owned(),
        "a: [&x 1]\n".to_owned(),
        "a: !!map &x {b: 1}\n".to_owned(),
        "defrag: { rule: !(dbSize > 1) }".to_owned(),
        "defrag:\n  rule: !(dbSize > 1)".to_owned(),
        format!("{}a: 1", " ".repeat(400)),
    ];
    for text in refused {
        assert!(bounded(&text).is_err(), "{}", text.chars().take(40).collect::<String>());
    }
    let accepted = [
        "defrag:\n  schedule: \"*/5 * * * *\"\n  rule: 'dbSize > 1 && dbSizeFree > 200 * MiB'\n",
        "defrag:\n  rule: >\n    dbSize > 1 &&\n    !(dbSizeFree < 200 * MiB)\n",
        "etcd: { tls: { ca_file: \"\" }, peers: [\"http://a:1\", \"http://b:1\"] } # [[[[\n",
    ];
    for text in accepted {
        assert_eq!(bounded(text), Ok(()), "{text}");
    }
}

#[test]
fn the_fingerprint_is_of_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, "dry_run: true").unwrap();
    let first = read_fingerprint(&file).unwrap();
    std::fs::write(&file, "dry_run: true").unwrap();
    assert_eq!(read_fingerprint(&file).unwrap(), first);
    std::fs::write(&file, "dry_run: false").unwrap();
    assert_ne!(read_fingerprint(&file).unwrap(), first);
    assert_eq!(Fingerprint::of(b"dry_run: true"), first);
    // The end of a bundle of authorities that is longer than any configuration.
    let mut bundle = vec![b'a'; 2 * MAX_FILE];
    std::fs::write(&file, &bundle).unwrap();
    let first = read_fingerprint_within(&file, 3 * MAX_FILE).unwrap();
    *bundle.last_mut().unwrap() = b'b';
    std::fs::write(&file, &bundle).unwrap();
    assert_ne!(read_fingerprint_within(&file, 3 * MAX_FILE).unwrap(), first);
    std::fs::remove_file(&file).unwrap();
    assert!(read_fingerprint(&file).is_err());
}

proptest::proptest! {
    #[test]
    fn arbitrary_files_never_panic(text in "[-a-z:{}\\[\\]&*!?|>\"' \n#]{0,200}", prefix in "(defrag|etcd|http):\n") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        for text in [text.clone(), format!("{prefix}{text}")] {
            std::fs::write(&file, text).unwrap();
            from_file(&file, &mut Vec::new());
        }
    }
}
