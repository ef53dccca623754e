//! A path through the rescue, in words.

use super::moves::{Move, Rescue};
use super::world::{Open, World};
use crate::plans::Ask;
use crate::story::{becomes, seconds};

/// One line for each step of a path.
pub fn tell(model: &Rescue, path: &[(World, Option<Move>)]) -> String {
    let steps = path.iter().filter_map(|(world, step)| step.map(|step| line(model, world, step)));
    let numbered = steps.enumerate().map(|(number, line)| format!("{:3}. {line}", number + 1));
    numbered.collect::<Vec<_>>().join("\n")
}

fn line(model: &Rescue, world: &World, step: Move) -> String {
    match step {
        Move::Do { janitor, place, fate } => format!("{}{}", action(model, world, janitor, place), becomes(fate)),
        Move::Deliver(janitor) => format!("j{janitor} reads that its defrag is done"),
        Move::GiveUp(janitor) => format!("the connection of j{janitor} breaks: its defrag has no answer"),
        Move::Arrive(flight) => {
            let call = world.flights[usize::from(flight)];
            format!(
                "the call of j{} reaches m{}, {} after its look began: m{} begins its defrag",
                call.by,
                call.to,
                seconds(call.age),
                call.to
            )
        }
        Move::Drop(flight) => format!("the call of j{} is lost", world.flights[usize::from(flight)].by),
        Move::End(member) => match world.members[usize::from(member)].open.first() {
            Some(Open::Operator) => format!("m{member} ends the operator's defrag"),
            _ => format!("m{member} ends its defrag"),
        },
        Move::Pass => format!("{} pass", seconds(model.passes(world).unwrap_or_default())),
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

fn action(model: &Rescue, world: &World, janitor: u8, place: u8) -> String {
    let Some(plan) = world.procs[usize::from(janitor)].plan else { return String::new() };
    let view = model.plans.view(plan);
    match &view.asks[usize::from(place)] {
        Ask::Look { .. } => format!("j{janitor} looks ({}): {}", view.phase, seen(world)),
        Ask::Compact => format!("j{janitor} compacts"),
        Ask::MoveLeader { from, to } => format!("j{janitor} moves leadership from m{from} to m{to}"),
        Ask::Defragment => match (view.permit, view.target) {
            (Some(age), Some(to)) => {
                format!("j{janitor} checks its permit (the look is {} old) and sends Defragment to m{to}", seconds(age))
            }
            _ => format!(
                "j{janitor} checks its permit, which does not hold (the look is {} old)",
                seconds(view.look_age)
            ),
        },
        Ask::Disarm => format!("j{janitor} clears NOSPACE"),
        Ask::Prove => format!("j{janitor} proves that etcd takes writes"),
        other => format!("j{janitor}: {other:?}"),
    }
}

/// What there is to see.
fn seen(world: &World) -> String {
    let which = |wanted: &dyn Fn(usize) -> bool| {
        let members: Vec<String> = (0..3).filter(|member| wanted(*member)).map(|member| format!("m{member}")).collect();
        if members.is_empty() { "nobody".to_owned() } else { members.join(" ") }
    };
    let large = which(&|member| !world.members[member].small);
    let busy = which(&|member| !world.members[member].open.is_empty());
    format!("m{} leads, too large: {large}, in a defrag: {busy}", world.leader)
}
