//! When two plans are the same plan.
//!
//! A plan is identified by what it shows of itself (`Debug`), so that no field of it can be forgotten. What is left out
//! or made relative to now is named here; everything else keeps two plans apart.

use std::time::Duration;

use etcd_janitor::plan::time::Mono;

/// Deadlines: one that has passed is like any other that has passed.
const DEADLINES: [&str; 8] = [
    " at: ",
    " next: ",
    " renew_at: ",
    " valid_until: ",
    " send_until: Some(",
    " ends: ",
    " lookout_at: ",
    " not_before: ",
];

/// Instants that are told to people and decide nothing. (`started` decides how long the leader's janitor waits for the
/// others, which is zero here.)
const SHOWN: [&str; 3] = [" queued_since: Some(", " sent_at: Some(Now { mono: ", " started: "];

/// The same for values: what is in the way (it decides the outcome at the end of the
/// window, which is never reached here), what was said last, and since when the cluster has been calm (no time of calm is
/// asked for here).
const SHOWN_VALUES: [&str; 6] = [" detail: ", " blocked: ", " said: ", " behind: ", " cautioned: ", " calm: "];

/// In a rescue the time of calm is what it is all about. What it tells in the end decides nothing.
const SHOWN_IN_RESCUE: [&str; 4] = [" detail: ", " blocked: ", " said: ", " began: "];

/// What is left out.
pub struct Leave {
    values: &'static [&'static str],
    /// Ages beyond these milliseconds are alike: longer than any patience in the plan but the one for a member that never
    /// answers again.
    old: i64,
    /// Ages in the values of this field count for longer.
    patient: Option<(&'static str, i64)>,
    /// So are instants further ahead.
    far: i64,
}

/// Only the end of the window lies further ahead.
pub const IN_ROUNDS: Leave = Leave { values: &SHOWN_VALUES, old: OLD, patient: None, far: 100_000 };
/// Calm for two minutes and ten seconds, the last of three janitors acts for another one. Nobody stands back for longer
/// than ten minutes.
pub const IN_RESCUES: Leave =
    Leave { values: &SHOWN_IN_RESCUE, old: OLD, patient: Some((" calm: ", 135_000)), far: 700_000 };

const OLD: i64 = 15_000;

/// The text that identifies a plan at `now`. `tickets` are those of the actions under way, in order: what counts of a
/// ticket is which action it belongs to.
pub fn of(shown: &str, now: Mono, tickets: &[String], leave: &Leave) -> String {
    let text = leave.values.iter().fold(shown.to_owned(), |text, field| left_out(&text, field));
    let text = match leave.patient.and_then(|(field, old)| Some((text.split_once(field)?, field, old))) {
        None => instants(&text, now, leave.old, leave),
        Some(((before, rest), field, old)) => {
            let (value, after) = rest.split_at(length(rest));
            let usual = |text: &str| instants(text, now, leave.old, leave);
            [usual(before), field.to_owned(), instants(value, now, old, leave), usual(after)].concat()
        }
    };
    let text = rewritten(&text, "Tickets(", |_, _| String::new());
    rewritten(&text, "Ticket(", |_, number| {
        let place = tickets.iter().position(|ticket| ticket == &format!("Ticket({number})"));
        place.map_or("gone".to_owned(), |place| place.to_string())
    })
}

/// The text without the values of a field.
fn left_out(text: &str, field: &str) -> String {
    let mut parts = text.split(field);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(field);
        kept.push_str(&part[length(part)..]);
    }
    kept
}

/// The text with another content in each `opening…)`; `content` is given what stands before it, too.
fn rewritten(text: &str, opening: &str, content: impl Fn(&str, &str) -> String) -> String {
    let mut parts = text.split(opening);
    let mut before = parts.next().unwrap_or_default();
    let mut done = before.to_owned();
    for part in parts {
        let (inside, after) = part.split_once(')').expect("a closing bracket");
        done.push_str(opening);
        done.push_str(&content(before, inside));
        done.push(')');
        done.push_str(after);
        before = after;
    }
    done
}

fn instants(text: &str, now: Mono, old: i64, leave: &Leave) -> String {
    rewritten(text, "Mono(", |before, span| relative(before, span, now, old, leave.far))
}

/// An instant as milliseconds from now.
fn relative(before: &str, span: &str, now: Mono, old: i64, far: i64) -> String {
    if SHOWN.iter().any(|field| before.ends_with(field)) {
        return String::new();
    }
    let from_now = milliseconds(span) - millis(now.since_origin());
    let oldest = if DEADLINES.iter().any(|field| before.ends_with(field)) { 0 } else { -old };
    from_now.clamp(oldest, far).to_string()
}

pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).expect("spans here are short")
}

/// Reads what `Duration` shows.
fn milliseconds(span: &str) -> i64 {
    let digits = span.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &span[digits.len()..] {
        "s" => 1000.0,
        "ms" => 1.0,
        "µs" => 1e-3,
        "ns" => 1e-6,
        unit => panic!("a duration in {unit:?}"),
    };
    let number: f64 = digits.parse().expect("the number of a duration");
    (number * factor).round() as i64
}

/// How many bytes the value takes that `text` begins with: up to the comma or bracket that ends its field.
fn length(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            ',' if depth == 0 => return at,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return at,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn instants_are_relative_and_what_is_only_shown_is_left_out() {
    let shown = r#"P { at: Mono(9.5s), since: Mono(9.5s), f: 1.5, awaiting: Some(Ticket(7)), tickets: Tickets(9),
        other: Some(Ticket(3)), detail: "a, \"(b", said: Some(Look { begun: [1, 2] }), ends: Mono(1000000s) }"#;
    let text = of(shown, Mono::new(Duration::from_secs(10)), &["Ticket(7)".to_owned()], &IN_ROUNDS);
    let expected = r#"P { at: Mono(0), since: Mono(-500), f: 1.5, awaiting: Some(Ticket(0)), tickets: Tickets(),
        other: Some(Ticket(gone)), detail: , said: , ends: Mono(100000) }"#;
    assert_eq!(text, expected);
}

#[test]
fn plans_that_differ_in_anything_else_are_not_the_same() {
    let now = Mono::new(Duration::from_secs(10));
    for (one, other) in [("head: true", "head: false"), ("since: Mono(9s)", "since: Mono(9.5s)"), ("a(1)", "a(2)")] {
        assert_ne!(of(one, now, &[], &IN_ROUNDS), of(other, now, &[], &IN_ROUNDS));
    }
}
