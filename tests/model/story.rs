//! A path through the model, in words.

use super::moves::{Fate, Move, Protocol};
use super::plans::Ask;
use super::scope::Ms;
use super::world::{Open, World};

/// One line for each step of a path.
pub fn tell(protocol: &Protocol, path: &[(World, Option<Move>)]) -> String {
    let steps = path.iter().filter_map(|(world, step)| step.map(|step| line(protocol, world, step)));
    let numbered = steps.enumerate().map(|(number, line)| format!("{:3}. {line}", number + 1));
    numbered.collect::<Vec<_>>().join("\n")
}

pub fn seconds(span: Ms) -> String {
    format!("{:.1} s", f64::from(span) / 1000.0)
}

fn line(protocol: &Protocol, world: &World, step: Move) -> String {
    match step {
        Move::Do { janitor, place, fate } => format!("{}{}", action(protocol, world, janitor, place), becomes(fate)),
        Move::Half { janitor, .. } => format!("j{janitor} begins to look after an intent and reads the members"),
        Move::Finish(janitor) => format!("j{janitor} ends its look with the records: {}", seen(world)),
        Move::Deliver(janitor) => format!("j{janitor} reads that its defrag is done"),
        Move::GiveUp(janitor) => format!("the connection of j{janitor} breaks: its defrag has no answer"),
        Move::Arrive(flight) => {
            let call = world.flights[usize::from(flight)];
            let (by, age) = (call.intent.by, seconds(call.age));
            format!("the call of j{by} reaches m{by}, {age} after its last look began: m{by} begins its defrag")
        }
        Move::Drop(flight) => format!("the call of j{} is lost", world.flights[usize::from(flight)].intent.by),
        Move::End(member) => match world.etcd.members[usize::from(member)].open.first() {
            Some(Open::Operator) => format!("m{member} ends the operator's defrag"),
            _ => format!("m{member} ends its defrag"),
        },
        Move::Expire(place) => {
            format!(
                "the lease of j{} ends, and its key in the queue with it",
                world.etcd.queue[usize::from(place)].made.by
            )
        }
        Move::LoseLease(place) => {
            format!("the lease of j{} is lost before its time", world.etcd.queue[usize::from(place)].made.by)
        }
        Move::Land(_) => "a transaction that nobody waits for any more is carried out".to_owned(),
        Move::Pass => format!("{} pass", seconds(protocol.passes(world).unwrap_or_default())),
        Move::Pause(janitor) => format!("j{janitor} stands still"),
        Move::Resume(janitor) => format!("j{janitor} goes on"),
        Move::Crash(janitor) => format!("j{janitor} crashes"),
        Move::Restart(janitor) => format!("j{janitor} starts again"),
        Move::Elect(member) => format!("m{member} is elected"),
        Move::RestartMember(member) => format!("etcd restarts on m{member}"),
        Move::Operator(member) => format!("an operator defragments m{member}"),
        Move::Cut { janitor, member } => format!("j{janitor} does not reach m{member} any more"),
    }
}

pub fn becomes(fate: Fate) -> &'static str {
    match fate {
        Fate::Done => "",
        Fate::AnswerLost => "; the answer is lost",
        Fate::Lost => "; the request is lost",
        Fate::Late => "; the request will be carried out late",
    }
}

fn action(protocol: &Protocol, world: &World, janitor: u8, place: u8) -> String {
    let Some(plan) = world.procs[usize::from(janitor)].plan else { return String::new() };
    let view = protocol.plans.view(plan);
    let etcd = &world.etcd;
    match &view.asks[usize::from(place)] {
        Ask::Figures => format!("j{janitor} reads its member's figures"),
        Ask::Look { of_round: true } => format!("j{janitor} looks ({}): {}", view.phase, seen(world)),
        Ask::Look { of_round: false } => format!("j{janitor} looks after an intent: {}", seen(world)),
        Ask::Join => format!("j{janitor} joins the queue"),
        Ask::Renew(_) => format!("j{janitor} renews its lease"),
        Ask::Leave(_) => format!("j{janitor} leaves the queue"),
        Ask::MoveLeader { to, .. } => format!("j{janitor} moves leadership to m{to}"),
        Ask::WriteIntent { .. } => format!("j{janitor} writes the intent"),
        Ask::Defragment => match view.permit {
            Some(age) => {
                format!("j{janitor} checks its permit (the look is {} old) and sends Defragment", seconds(age))
            }
            None => format!(
                "j{janitor} checks its permit, which does not hold (the look is {} old)",
                seconds(view.look_age)
            ),
        },
        Ask::Settle { record, .. } => {
            let outcome = record.map_or("nothing".to_owned(), |(member, outcome)| format!("m{member} {outcome}"));
            let whose =
                etcd.intent.map_or("no intent".to_owned(), |intent| format!("the intent of j{}", intent.made.by));
            format!("j{janitor} records {outcome} and clears {whose}")
        }
        other => format!("j{janitor}: {other:?}"),
    }
}

/// What there is to see.
fn seen(world: &World) -> String {
    let etcd = &world.etcd;
    let queue: Vec<String> = etcd.queue.iter().map(|place| format!("j{}", place.made.by)).collect();
    let queue = if queue.is_empty() { "nobody queues".to_owned() } else { format!("queue {}", queue.join(" ")) };
    let intent = etcd.intent.map_or("no intent".to_owned(), |intent| format!("intent of j{}", intent.made.by));
    let busy = (0..3).filter(|member| !etcd.members[*member].open.is_empty()).map(|member| format!("m{member}"));
    let busy: Vec<String> = busy.collect();
    let busy = if busy.is_empty() { "no defrag open".to_owned() } else { format!("defrag open on {}", busy.join(" ")) };
    format!("{queue}, {intent}, {busy}")
}
