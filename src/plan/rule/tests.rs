use super::*;

const MIB: u64 = 1 << 20;

fn figures(db_size: u64, db_size_in_use: u64, quota: u64) -> Figures {
    Figures { db_size, db_size_in_use, quota: Quota::Bytes(quota) }
}

#[track_caller]
fn check(rule: &str, size: u64, in_use: u64, quota: u64, expected: bool) {
    let rule = Rule::parse(rule).unwrap();
    let figures = figures(size, in_use, quota);
    assert_eq!(rule.evaluate(&figures), Ok(expected), "{}", rule.explain(&figures));
}

#[test]
fn rules_of_etcd_defrag_give_the_same_answers() {
    // From its README.
    let or = "dbSize > dbQuota*80/100 || dbSize - dbSizeInUse > 200*1024*1024";
    let or_names = "dbQuotaUsage > 0.8 || dbSizeFree > 200*1024*1024";
    let or_mixed = "dbQuotaUsage > 0.8 || dbSize - dbSizeInUse > 200*1024*1024";
    for rule in [or, or_names, or_mixed] {
        check(rule, 131_072, 131_072, 2048 * MIB, false);
        check(rule, 1700 * MIB, 1700 * MIB, 2048 * MIB, true);
        check(rule, 500 * MIB, 299 * MIB, 2048 * MIB, true);
        check(rule, 500 * MIB, 300 * MIB, 2048 * MIB, false);
    }
    let and = "dbSize > dbQuota*80/100 && dbSize - dbSizeInUse > 200*1024*1024";
    for rule in [and, "dbSize > dbQuota*80/100 && dbSizeFree > 200*1024*1024"] {
        check(rule, 1700 * MIB, 1700 * MIB, 2048 * MIB, false);
        check(rule, 1700 * MIB, 1400 * MIB, 2048 * MIB, true);
        check(rule, 500 * MIB, 100 * MIB, 2048 * MIB, false);
    }
    // From its tests.
    check("dbSize > dbQuota*80/100", 81, 0, 100, true);
    check("dbSize > dbQuota*80/100", 79, 0, 100, false);
    check("dbQuotaUsage > 0.8", 81, 0, 100, true);
    check("dbQuotaUsage > 0.8", 79, 0, 100, false);
    check("dbSize - dbSizeInUse > 200", 301, 100, 1000, true);
    check("dbSizeFree > 200", 299, 100, 1000, false);
    check("dbSize > dbQuota*80/100 && dbSize - dbSizeInUse > 200", 801, 600, 1000, true);
    check("dbSize > dbQuota*80/100 && dbSize - dbSizeInUse > 200", 81, 60, 100, false);
    check("dbQuotaUsage > 0.8 || dbSizeFree > 200", 81, 60, 100, true);
    check("(dbSize > dbQuota*80/100) || (dbSize - dbSizeInUse > 200*1024*1024)", 81, 60, 100, true);
    check("dbSizeInUse / dbSize < 0.5", 81, 60, 100, false);
}

#[test]
fn numbers_are_floats_throughout() {
    check("80/100*dbQuota < dbSize", 81, 0, 100, true);
    check("80/100*dbQuota < dbSize", 79, 0, 100, false);
    check("7/2 == 3.5", 1, 1, 1, true);
    check("dbSize / dbQuota > 0.7", 71, 0, 100, true);
    check("dbSize % 7 == 1", 71, 0, 100, true);
    check("-dbSize < -70", 71, 0, 100, true);
    check("!(dbSize > 70) || false", 71, 0, 100, false);
    check("dbSizeFree > .5*KiB && 1e3 < KiB", 2048, 0, 1 << 30, true);
    check("9999999999999*9999999999999 > dbSize", 1, 1, 1, true);
    check("1 + 2 * 3 == 7 && (1 + 2) * 3 == 9", 1, 1, 1, true);
    check("true || false && false", 1, 1, 1, true);
}

#[test]
fn a_quota_that_is_off_is_infinite_and_one_that_is_unknown_is_two_gibibytes() {
    let off = Figures { db_size: 9 << 30, db_size_in_use: 1 << 30, quota: Quota::Disabled };
    for quota in [Quota::Disabled, Quota::Bytes(0)] {
        let off = Figures { quota, ..off };
        for rule in ["dbQuotaUsage > 0", "dbSize > dbQuota*80/100", "dbSize/dbQuota > 0.1", "dbQuota < 100 * GiB"] {
            assert_eq!(Rule::parse(rule).unwrap().evaluate(&off), Ok(false), "{rule}");
        }
    }
    let unknown = Figures { quota: Quota::Unknown, ..off };
    assert_eq!(Rule::parse("dbQuota == 2 * GiB && dbQuotaUsage > 4").unwrap().evaluate(&unknown), Ok(true));
}

#[test]
fn more_in_use_than_the_file_has_is_nothing_free() {
    check("dbSizeFree == 0 && dbFreeRatio == 0", 100, 200, 1000, true);
    check("dbFreeRatio == 0", 0, 0, 1000, true);
}

#[test]
fn what_is_no_rule_is_refused_with_its_place() {
    let table = [
        ("", "found nothing"),
        ("dbSize - dbSizeInUse", "found a number; allowed: a condition"),
        ("dbSizE > 100", "column 1: found the unknown name `dbSizE`; allowed: dbSize dbSizeInUse dbSizeFree dbQuota"),
        ("dbSize > 100 || quota > 1", "column 17: found the unknown name `quota`"),
        ("true || dbSize", "column 6: found an operator between things"),
        ("dbSize > 0 || dbSize + true > 1", "column 22: found an operator between"),
        ("!dbSize", "column 1: found an operator between"),
        ("dbSize > 0 || dbSize / 0 > 1", "column 22: found a division by zero"),
        ("dbSize / dbSizeFree > 1", "column 8: found a division by zero for dbSize=2GiB dbSizeFree=0B"),
        ("dbSize / dbQuotaUsage > 1", "dbQuotaUsage=0.00"),
        ("dbSize % 0 > 1", "column 8: found a division by zero"),
        ("dbSize > 200MiB", "column 13: found `MiB` behind `200`; allowed: an operator between them"),
        ("let x = 1; x > 0", "column 1: found the unknown name `let`"),
        ("dbSize > 1; true", "column 11: found `;`"),
        ("max(dbSize, 1) > 0", "column 1: found the unknown name `max`"),
        ("dbSize(1) > 0", "column 7: found `(` behind `dbSize`"),
        ("\"a\" == \"a\"", "column 1: found `\\\"`"),
        ("dbSize = 1", "column 8: found `=`"),
        ("dbSize & 1 > 0", "column 8: found `&`"),
        ("(dbSize > 1", "column 1: found `(` without its partner"),
        ("dbSize > 1)", "column 11: found `)` without its partner"),
        ("dbSize >", "column 8: found the end behind `>`"),
        ("dbSize > > 1", "column 10: found `>`"),
        ("> 1", "column 1: found `>`"),
        ("dbSize > 1 dbSize > 2", "column 12: found `dbSize` behind `1`"),
        ("dbSize > 1.2.3", "column 13: found `.3` behind `1.2`"),
        ("dbSize > .", "column 10: found `.`; allowed: a number"),
        ("dbSize > 1e999", "column 10: found `1e999`"),
        ("größe > 1", "column 1: found the unknown name `größe`"),
        ("dbSize > 1 ∧ true", "column 12: found `∧`"),
        ("dbSize ** 2 > 1", "column 9: found `*`"),
    ];
    for (rule, part) in table {
        let error = Rule::parse(rule).unwrap_err().to_string();
        assert!(error.contains(part), "{rule:?}: {error}");
    }
}

#[test]
fn long_and_deep_rules_are_refused_and_ordinary_long_ones_are_not() {
    let long = Rule::parse(&format!("dbSize > {}1", " ".repeat(MAX_TEXT))).unwrap_err();
    assert_eq!((long.column, long.allowed), (Some(MAX_TEXT + 1), format!("at most {MAX_TEXT}")));
    assert_eq!(Rule::parse("dbSize - dbSizeInUse").unwrap_err().column, Some(1));
    let deep = [
        format!("{}true{}", "(".repeat(500), ")".repeat(500)),
        format!("{}true", "!".repeat(1000)),
        format!("{}1 > 0", "-".repeat(1000)),
        format!("1{} > 0", "+1".repeat(500)),
        format!("true{}", "||true".repeat(160)),
        "(".repeat(1024),
    ];
    for rule in deep {
        let error = Rule::parse(&rule).unwrap_err().to_string();
        assert!(error.contains("too deeply") || error.contains("partner"), "{error}");
    }
    let clauses = vec!["dbSizeFree > 100 * MiB && dbFreeRatio > 0.4"; 20].join(" || ");
    Rule::parse(&clauses).unwrap();
}

#[test]
fn explaining_fills_the_numbers_in() {
    let rule = Rule::parse("dbQuotaUsage > 0.8 && dbSizeFree > 32 * MiB || dbFreeRatio  >  0.4").unwrap();
    let figures = figures(696 * MIB, 184 * MIB, 2048 * MIB);
    let expected = "dbQuotaUsage=0.34 > 0.8 && dbSizeFree=512MiB > 32 * MiB || dbFreeRatio=0.74  >  0.4 is true";
    assert_eq!(rule.explain(&figures), expected);
    let rule = Rule::parse("dbSize > dbQuota").unwrap();
    let unknown = Figures { quota: Quota::Unknown, ..figures };
    assert_eq!(rule.explain(&unknown), "dbSize=696MiB > dbQuota=2GiB is false (quota unknown: 2GiB assumed)");
    let off = Figures { quota: Quota::Disabled, db_size: 20_481, ..figures };
    assert_eq!(rule.explain(&off), "dbSize=20KiB > dbQuota=unlimited is false");
}

#[test]
fn a_rule_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + fmt::Debug>(_: &T) {}
    shared(&Rule::parse("true").unwrap());
}

proptest::proptest! {
    // Unoptimised, each case takes milliseconds.
    #![proptest_config(proptest::test_runner::Config { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = Rule::parse(&text);
    }

    #[test]
    fn arbitrary_tokens_never_panic_and_figures_have_an_answer(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "dbSize", "dbSizeInUse", "dbSizeFree", "dbQuota", "dbQuotaUsage", "dbFreeRatio", "KiB", "MiB", "true",
            "false", "1", "0", "0.5", "1e9", "+", "-", "*", "/", "%", "<", "<=", ">", "==", "!=", "&&", "||", "!",
            "(", ")",
        ]), 0..24),
        size: u64, in_use: u64, quota: u64,
    ) {
        if let Ok(rule) = Rule::parse(&words.join(" ")) {
            let figures = figures(size, in_use, quota);
            let answer = rule.evaluate(&figures);
            proptest::prop_assert!(answer.is_ok() || answer.unwrap_err().found.contains("zero"));
            rule.explain(&figures);
        }
    }
}

#[test]
fn a_rule_is_taken_apart_into_conditions_that_together_say_the_same() {
    let rules = [
        "dbQuotaUsage > 0.8 && dbSizeFree > 32 * MiB || dbSizeFree > 100 * MiB && dbFreeRatio > 0.4",
        "true",
        "!(dbSize > 1 * GiB || dbFreeRatio < 0.1)",
        "(dbSize > 1 * GiB || dbSizeFree > 100 * MiB) && !false",
        "dbSize - dbSizeInUse > 200*1024*1024 || dbSize > dbQuota*80/100",
        "dbSize > 1 && dbSize > 2 && dbSize > 3 || false || -1 < 0",
    ];
    let sizes = [(0, 0, 0), (412 * MIB, 180 * MIB, 8192 * MIB), (7000 * MIB, 6999 * MIB, 8192 * MIB), (1, 2, 3)];
    for text in rules {
        let rule = Rule::parse(text).unwrap();
        for (size, in_use, quota) in sizes {
            let figures = figures(size, in_use, quota);
            let conditions = rule.conditions(&figures);
            let last = conditions.last().unwrap().alternative;
            let all = |alternative| {
                conditions.iter().filter(|one| one.alternative == alternative).all(|one| one.holds == Some(true))
            };
            assert_eq!(Ok((0..=last).any(all)), rule.evaluate(&figures), "{text}: {conditions:#?}");
        }
    }
}

#[test]
fn a_condition_shows_its_own_values() {
    let shown = |text: &str| {
        let conditions = Rule::parse(text).unwrap().conditions(&figures(412 * MIB, 180 * MIB, 8192 * MIB));
        conditions.into_iter().map(|one| (one.alternative, one.text, one.values, one.holds)).collect::<Vec<_>>()
    };
    let one =
        |alternative, text: &str, values: &str, holds| (alternative, text.to_owned(), values.to_owned(), Some(holds));
    assert_eq!(
        shown("dbFreeRatio>0.6 && dbSizeFree > 32*MiB || !(dbSize > 1 * GiB)"),
        [
            one(0, "dbFreeRatio > 0.6", "0.56 > 0.60", false),
            one(0, "dbSizeFree > 32 * MiB", "232MiB > 32MiB", true),
            one(1, "!(dbSize > 1 * GiB)", "!(412MiB > 1 * GiB)", true),
        ]
    );
    let long = vec!["dbSize > 1"; 33].join(" || ");
    assert_eq!(Rule::parse(&long).map(|rule| rule.conditions(&figures(1, 1, 1))), Ok(Vec::new()));
}
