use super::*;

fn given(text: &str) -> Raw {
    Raw::Text(text.to_owned())
}

#[test]
fn durations_need_units_of_fixed_length() {
    let read = |text: &str| duration(&given(text), Duration::ZERO, LONGEST);
    for (text, seconds) in
        [("0s", 0), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("2w", 1_209_600)]
    {
        assert_eq!(read(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    assert_eq!(read("250ms"), Ok(Duration::from_millis(250)));
    let refused = [
        "",
        "0",
        "90",
        "5M",
        "1y",
        "1month",
        "5 parsecs",
        "-5s",
        "5s5",
        "s",
        "1us",
        "3651d",
        "99999999999999999999h",
        "1e9s",
        "NaNs",
        "infs",
        "\u{661}s",
        "5\u{202f}s",
    ];
    for text in refused {
        assert!(read(text).is_err(), "{text}");
    }
    assert!(duration(&given("1s"), Duration::from_secs(5), LONGEST).is_err());
    // etcd grants leases of whole seconds: a fraction would be renewed for longer than it was granted.
    let whole = |text: &str| whole_seconds(&given(text), Duration::from_secs(5), LONGEST);
    assert_eq!(whole("1m30s"), Ok(Duration::from_secs(90)));
    assert!(whole("5500ms").is_err() && whole("4s").is_err());
}

#[test]
fn sizes_tell_binary_from_decimal_units() {
    let table = [
        ("8GiB", 8 << 30),
        ("8Gi", 8 << 30),
        ("8GB", 8_000_000_000),
        ("1024", 1024),
        ("1.5 KiB", 1536),
        ("1TiB", 1 << 40),
    ];
    for (text, bytes) in table {
        assert_eq!(size(&given(text)), Ok(Some(bytes)), "{text}");
    }
    assert_eq!(size(&given("")), Ok(None));
    for text in ["0", "8gb", "8 G", "-1", "1e9", "99999999999GiB", "2PiB", ".", "GiB", "1.2.3GiB", "NaN", "inf"] {
        assert!(size(&given(text)).is_err(), "{text}");
    }
}

#[test]
fn ratios_are_above_zero_and_at_most_one() {
    for (text, value) in [("0.9", 0.9), ("1", 1.0), ("1e-3", 0.001)] {
        assert_eq!(ratio(&given(text)), Ok(value));
    }
    for text in ["0", "-0.1", "1.01", "90%", "NaN", "inf", "-inf", "1e999", ""] {
        assert!(ratio(&given(text)).is_err(), "{text}");
    }
}

#[test]
fn urls_are_scheme_host_and_port() {
    let table =
        ["http://127.0.0.1:2379", "https://etcd-0.etcd-headless.ns.svc:2379", "http://[::1]:2379", "https://a_b:1"];
    for text in table {
        assert_eq!(url(&given(text)), Ok(text.to_owned()));
    }
    assert_eq!(url(&given("http://h:1/")), Ok("http://h:1".to_owned()));
    let refused = [
        "",
        "127.0.0.1:2379",
        "ftp://h:1",
        "HTTP://h:1",
        "http://h",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://:1",
        "http://h:1/metrics",
        "http://h:1?x",
        "http://h:1#x",
        "http://::1:2379",
        "http://[::1:2379",
        "http://[h]:1",
        "http://h h:1",
        "http://h:+1",
        "unix:///x:1",
        "http://h:1//",
    ];
    for text in refused {
        assert!(url(&given(text)).is_err(), "{text}");
    }
}

#[test]
fn what_may_hold_a_password_is_not_repeated() {
    let secret = "hunter2";
    let wrongs = [
        url(&given("http://root:hunter2@h:1")).map(drop),
        url(&given("http://root:hunter2@h:1\n")).map(drop),
        path(&given("-----BEGIN PRIVATE KEY----- hunter2")).map(drop),
        username(&given("root:hunter2\n")).map(drop),
        username(&given("root:hunter2")).map(drop),
        secret_path(&given("hunter2")).map(drop),
        secret_path(&given("hunter2\n")).map(drop),
        urls(&Raw::List(vec![given("http://root:hunter2@h:1")])).map(drop),
    ];
    for wrong in wrongs {
        let wrong = wrong.unwrap_err();
        assert!(!wrong.found.unwrap().contains(secret));
    }
}

#[test]
fn a_misspelt_level_is_not_taken_for_the_name_of_a_target() {
    for text in ["info", "OFF", "info,etcd_janitor=debug", "warn,tokio_cron_scheduler=off", "info,[span]=trace"] {
        assert!(log_level(&given(text)).is_ok(), "{text}");
    }
    for text in ["", "inof", "info,", "etcd_janitor", "etcd_janitor=loud", "info,,debug"] {
        assert!(log_level(&given(text)).is_err(), "{text}");
    }
}

#[test]
fn numbers_must_be_quoted_to_be_text() {
    assert!(text(&Raw::Plain("7".to_owned())).is_err());
    assert!(text(&Raw::Nothing).is_err() && text(&Raw::List(vec![])).is_err());
    assert_eq!(text(&given("007")), Ok("007".to_owned()));
    assert!(text(&given("a\u{0}b")).is_err() && text(&given(&"x".repeat(2000))).is_err());
}

proptest::proptest! {
    #[test]
    fn arbitrary_directives_never_panic(written in "(info|debug|a|=|,|\\[|\\]|\\{|\\}|\"|[ -~]){0,12}") {
        let _ = log_level(&given(&written));
    }

    #[test]
    fn arbitrary_values_never_panic(written in "\\PC{0,40}", number in proptest::num::f64::ANY) {
        for raw in [given(&written), Raw::Plain(number.to_string()), given(&number.to_string())] {
            for key in crate::config::keys::ALL {
                let _ = key.check(&raw);
                let _ = key.check(&Raw::List(vec![raw.clone()]));
            }
        }
    }
}
