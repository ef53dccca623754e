use super::*;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn zone(name: &str) -> Zone {
    name.parse().unwrap()
}

/// What fires after `from`, until `until` inclusive.
fn firings(expression: &str, zone_name: &str, from: &str, until: &str) -> Vec<String> {
    let schedule = Schedule::parse(expression, zone(zone_name)).unwrap();
    let mut at = utc(from);
    let mut all = Vec::new();
    while let Some(due) = schedule.next_after(at).filter(|due| *due <= utc(until)) {
        assert!(due > at, "{expression}: {due} after {at}");
        all.push(due.format("%d %H:%M").to_string());
        at = due;
    }
    all
}

#[track_caller]
fn check(expression: &str, zone_name: &str, from: &str, until: &str, expected: &[&str]) {
    assert_eq!(firings(expression, zone_name, from, until), expected, "{expression} {zone_name}");
}

const SPRING: (&str, &str) = ("2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z");
const AUTUMN: (&str, &str) = ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");

#[test]
fn a_fixed_time_follows_the_wall_clock_over_both_changes() {
    check("30 9 * * *", "Europe/Paris", AUTUMN.0, AUTUMN.1, &["25 08:30", "26 08:30"]);
    check("30 9 * * *", "Europe/Paris", "2026-10-23T12:00:00Z", AUTUMN.1, &["24 07:30", "25 08:30", "26 08:30"]);
    check("30 9 * * *", "Europe/Paris", SPRING.0, SPRING.1, &["28 07:30", "29 07:30"]);
    check("0 0 * * *", "Europe/London", SPRING.0, SPRING.1, &["28 00:00", "28 23:00"]);
    check("0 0 * * *", "Europe/London", AUTUMN.0, AUTUMN.1, &["24 23:00", "26 00:00"]);
    check("0 0 * * *", "America/New_York", "2027-03-13T12:00:00Z", "2027-03-15T12:00:00Z", &["14 05:00", "15 04:00"]);
    check("0 0 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z", &["01 04:00", "02 05:00"]);
}

#[test]
fn a_fixed_time_in_the_gap_fires_just_after_it() {
    check("30 2 * * *", "Europe/Paris", SPRING.0, SPRING.1, &["28 01:00", "29 00:30"]);
    check("30 1 * * *", "Europe/London", SPRING.0, SPRING.1, &["28 01:00", "29 00:30"]);
    check("30 2 * * *", "America/New_York", "2027-03-13T12:00:00Z", "2027-03-15T12:00:00Z", &["14 07:00", "15 06:30"]);
}

#[test]
fn a_fixed_time_in_the_repeated_hour_fires_at_its_first_pass() {
    check("30 2 * * *", "Europe/Paris", AUTUMN.0, AUTUMN.1, &["25 00:30", "26 01:30"]);
    check("30 1 * * *", "Europe/London", AUTUMN.0, AUTUMN.1, &["25 00:30", "26 01:30"]);
    check("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z", &["01 05:30", "02 06:30"]);
}

#[test]
fn an_interval_skips_the_gap_and_runs_in_both_passes() {
    let (from, until) = ("2027-03-28T00:29:00Z", "2027-03-28T01:31:00Z");
    check("*/30 * * * *", "Europe/Paris", from, until, &["28 00:30", "28 01:00", "28 01:30"]);
    let (from, until) = ("2026-10-24T23:59:00Z", "2026-10-25T02:01:00Z");
    let all = ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"];
    check("*/30 * * * *", "Europe/Paris", from, until, &all);
    check("0,30 2 * * *", "Europe/Paris", SPRING.0, "2027-03-28T12:00:00Z", &[]);
    check("0,30 2 * * *", "Europe/Paris", AUTUMN.0, "2026-10-25T12:00:00Z", &all[..4]);
}

#[test]
fn both_day_fields_mean_either() {
    let days = ["07 00:00", "14 00:00", "15 00:00", "21 00:00", "28 00:00"];
    check("0 0 15 * MON", "UTC", "2026-12-01T00:00:00Z", "2026-12-31T00:00:00Z", &days);
}

#[test]
fn every_documented_form_is_read() {
    let from = utc("2026-11-22T10:17:30.5Z"); // a Sunday
    let table = [
        ("*/5 * * * *", "2026-11-22T10:20:00Z"),
        ("0 0 * * *", "2026-11-23T00:00:00Z"),
        ("  15   4  * * *  ", "2026-11-23T04:15:00Z"),
        ("31 17 10 * * *", "2026-11-22T10:17:31Z"),
        ("* * * * * *", "2026-11-22T10:17:31Z"),
        ("@hourly", "2026-11-22T11:00:00Z"),
        ("@Daily", "2026-11-23T00:00:00Z"),
        ("@weekly", "2026-11-29T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
        ("0 3 * * 7", "2026-11-29T03:00:00Z"),
        ("0 3 * * sat-sun", "2026-11-28T03:00:00Z"),
        ("0 3 1 jan,jul *", "2027-01-01T03:00:00Z"),
        ("0 0 L * *", "2026-11-30T00:00:00Z"),
        ("0 0 * * FRI#2", "2026-12-11T00:00:00Z"),
        ("0 0 * * FRI#L", "2026-11-27T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0-10/5 1,13 * * *", "2026-11-22T13:00:00Z"),
    ];
    for (expression, expected) in table {
        let schedule = Schedule::parse(expression, Zone::UTC).unwrap();
        assert_eq!(schedule.next_after(from), Some(utc(expected)), "{expression}");
        assert_eq!(schedule.text(), expression.trim());
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_the_field() {
    let table = [
        ("", "found nothing"),
        ("* * * *", "which has 4 fields"),
        ("daily", "which has 1 field;"),
        ("0 0 0 1 1 * 2027", "no field for years"),
        ("60 * * * *", "\"60\" as minute; allowed: 0-59"),
        ("0 24 * * *", "\"24\" as hour"),
        ("0 0 0 * *", "\"0\" as day-of-month"),
        ("0 0 * 13 *", "\"13\" as month"),
        ("0 0 * * 8", "\"8\" as day-of-week"),
        ("61 0 0 * * *", "\"61\" as second"),
        ("SUN * * * *", "\"SUN\" as minute"),
        ("0 0 * * MONDAY", "\"MONDAY\" as day-of-week"),
        ("0 0 1 * +MON", "\"+MON\" as day-of-week"),
        ("0 0 15W * *", "\"15W\" as day-of-month"),
        ("*/0 * * * *", "\"*/0\" as minute"),
        ("5-1 * * * *", "\"5-1\" as minute"),
        (", 6 * * * 0", "\",\" as second"),
        ("1,,2 * * * *", "\"1,,2\" as minute"),
        ("0 0 1, * *", "\"1,\" as day-of-month"),
        ("0 0 30 2 *", "which never comes"),
        ("* * * 30 2 *", "which never comes"),
        ("0 0 31 4,6,9,11 *", "which never comes"),
        ("@every 5m", "an interval has no instants"),
        ("@reboot", "because it was started"),
        ("@fortnightly", "@hourly"),
        ("0 0 * * *\u{e9}", "crontab's five fields"),
        ("0 0 * * * \u{7}", "crontab's five fields"),
    ];
    for (expression, part) in table {
        let error = Schedule::parse(expression, Zone::UTC).unwrap_err().to_string();
        assert!(error.contains(part), "{expression:?}: {error}");
    }
    assert!(Schedule::parse(&"1,".repeat(400), Zone::UTC).is_err());
}

#[test]
fn the_last_firing_is_the_one_that_the_next_ones_led_to() {
    let expressions =
        ["30 2 * * *", "*/30 * * * *", "0 0 * * *", "0,30 1,2 * * *", "0 0 29 2 *", "0 3 * * SUN", "*/7 * * * * *"];
    for expression in expressions {
        for zone_name in ["Europe/Paris", "Europe/London", "America/New_York", "UTC"] {
            let schedule = Schedule::parse(expression, zone(zone_name)).unwrap();
            for start in ["2026-10-24T20:00:00Z", "2027-03-27T20:00:00Z", "2026-11-01T00:00:00Z"] {
                let mut last = schedule.last_at_or_before(utc(start)).unwrap();
                assert!(last <= utc(start) && schedule.next_after(last).unwrap() > utc(start));
                for step in 0..40 {
                    let at = utc(start) + TimeDelta::seconds(step * 1117);
                    while let Some(due) = schedule.next_after(last).filter(|due| *due <= at) {
                        last = due;
                    }
                    assert_eq!(schedule.last_at_or_before(at), Some(last), "{expression} {zone_name} at {at}");
                }
            }
        }
    }
}

#[test]
fn an_instant_is_its_own_last_firing() {
    let daily = Schedule::parse("@daily", Zone::UTC).unwrap();
    let due = utc("2026-11-22T00:00:00Z");
    assert_eq!(daily.last_at_or_before(due), Some(due));
    assert_eq!(daily.last_at_or_before(due + TimeDelta::milliseconds(999)), Some(due));
    assert_eq!(daily.last_at_or_before(due - TimeDelta::milliseconds(1)), Some(due - TimeDelta::days(1)));
}

#[test]
fn the_ends_of_time_are_survived() {
    let daily = Schedule::parse("@daily", zone("America/New_York")).unwrap();
    for at in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, DateTime::UNIX_EPOCH] {
        let _ = (daily.next_after(at), daily.last_at_or_before(at), daily.interval(at));
    }
}

#[test]
fn the_interval_is_what_lies_between_the_next_two() {
    let daily = Schedule::parse("30 9 * * *", zone("Europe/Paris")).unwrap();
    assert_eq!(daily.interval(utc("2026-10-23T12:00:00Z")), Some(Duration::from_secs(25 * 3600)));
    assert_eq!(daily.interval(utc("2026-11-23T12:00:00Z")), Some(Duration::from_secs(24 * 3600)));
}

#[test]
fn questions_are_cheap_for_every_accepted_expression() {
    let at = utc("2026-11-22T10:17:30Z");
    for expression in ["0 0 29 2 *", "0 0 30 2 *", "* * * * * *", "0 0 * 2 MON#5", "0 0 1 1 *", "59 59 23 31 12 *"] {
        let started = std::time::Instant::now();
        if let Ok(schedule) = Schedule::parse(expression, zone("Europe/Paris")) {
            schedule.last_at_or_before(at);
            schedule.interval(at);
        }
        // Unoptimised and beside other work; a search without bound takes minutes.
        assert!(started.elapsed() < Duration::from_secs(5), "{expression}: {:?}", started.elapsed());
    }
}

proptest::proptest! {
    // Unoptimised, each case takes milliseconds.
    #![proptest_config(proptest::test_runner::Config { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_text_is_read_or_refused(text in "[0-9*/,@# LWASUNMOa-z+?-]{0,24}") {
        let _ = Schedule::parse(&text, Zone::UTC);
    }

    #[test]
    fn arbitrary_fields_are_read_or_refused(fields in proptest::collection::vec("[0-9*/,L#-]{1,5}", 4..8)) {
        if let Ok(schedule) = Schedule::parse(&fields.join(" "), Zone::UTC) {
            let at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
            let last = schedule.last_at_or_before(at);
            proptest::prop_assert!(last.is_none_or(|last| last <= at));
        }
    }
}
