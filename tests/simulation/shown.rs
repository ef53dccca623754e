//! Events and steps in a trace.

use etcd_janitor::plan::cluster::MemberLook;
use etcd_janitor::plan::step::{Action, Answer, Event, Sent};

/// One event, short enough for a line.
pub fn brief(event: &Event) -> String {
    match event {
        Event::Due { round, .. } => format!("due {round}"),
        Event::Answered { answer: Answer::Looked(look), .. } => {
            let shown = |m: &MemberLook| {
                let open = m.scrape.as_ref().map_or("?".to_owned(), |s| s.defrags_open.to_string());
                format!("{}{}", if m.status.is_ok() { "ok" } else { "--" }, open)
            };
            let members: Vec<_> = look.members.iter().map(shown).collect();
            let records = look.records.as_ref().map(|r| {
                let intent = r.intent.as_ref().and_then(|i| i.value.as_ref().ok()).map(|i| i.instance.clone());
                format!("turns {} intent {intent:?}", r.turns.len())
            });
            format!("look [{}] {records:?}", members.join(" "))
        }
        Event::Answered { answer: Answer::Sent(Sent::Done { .. }), .. } => "defrag done".to_owned(),
        other => format!("{other:?}").chars().take(160).collect(),
    }
}

/// What is to be done, in a word.
pub fn verb(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}
