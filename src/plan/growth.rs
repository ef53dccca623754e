//! When the local member's file will have reached its quota, if it goes on as in the last hours.
//!
//! etcd raises NOSPACE by the size of the file, and the file grows only when its free pages are used up. So two things
//! are watched: what is *in use*, which decides in the end, and the *file*, which can outgrow it where free pages do not
//! fit what is written.
//!
//! Its danger is to take the tooth of a saw for a trend: between two compactions everything grows, and one load of data
//! is a step that does not go on. So only what is left of growth counts: the low points of what is in use (and the high
//! points of the file) of four parts of time, each longer than a compaction's tooth and than what is kept on purpose.
//! Every step between them must lead upwards: a load that takes less than a part shows in two of the three at most. It
//! takes hours until anything is said; faster growth is what `defrag.urgent_at` and the rescue are for.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::hold::instant;
use super::rule::Quota;
use super::snapshot::{Growing, Growth};
use super::step::Say;
use super::time::{Mono, Now};

/// etcd's own compaction is hourly; shorter parts would lie within one tooth.
const SHORTEST_TOOTH: Duration = Duration::from_secs(3600);
/// Parts that are compared.
const PARTS: u64 = 4;
/// Pieces of a part, each remembered by its extremes.
const PIECES: u64 = 15;
/// A part with fewer pieces that were seen says nothing: they would be shorter than a tooth.
const ENOUGH_PIECES: usize = 12;
/// Growth of less than this share of the quota in a part is noise: it would take weeks.
const NOISE: f64 = 0.001;
/// Without a schedule, "before the next round" is within this time.
const NO_ROUND: TimeDelta = TimeDelta::days(1);
/// How long nothing must have been in sight before a warning is over.
const RELIEF: Duration = Duration::from_secs(1800);

/// The extremes of a piece of time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    index: u64,
    in_use_low: u64,
    in_use_high: u64,
    file_high: u64,
}

/// What the last hours looked like, in at most 61 pieces.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    piece: Duration,
    pieces: VecDeque<Piece>,
    file: u64,
    /// When the quota was last forecast to be reached before the next round; none: no warning is out.
    warned: Option<Mono>,
}

impl Watch {
    /// Nothing seen yet. `kept` is how long history is kept on purpose before it is compacted: what grows meanwhile is
    /// given back.
    pub fn new(kept: Duration) -> Self {
        Watch { piece: piece(kept), pieces: VecDeque::new(), file: 0, warned: None }
    }

    /// Forgets what was seen, if history is kept for another time now.
    pub fn set_kept(&mut self, kept: Duration) {
        if self.piece != piece(kept) {
            *self = Watch { warned: self.warned, ..Watch::new(kept) };
        }
    }

    /// Takes over what the member told, in bytes.
    pub fn sample(&mut self, file: u64, in_use: u64, now: Mono) {
        self.file = file;
        let index = self.index(now);
        match self.pieces.back_mut().filter(|piece| piece.index == index) {
            Some(piece) => {
                piece.in_use_low = piece.in_use_low.min(in_use);
                piece.in_use_high = piece.in_use_high.max(in_use);
                piece.file_high = piece.file_high.max(file);
            }
            None => {
                self.pieces.push_back(Piece { index, in_use_low: in_use, in_use_high: in_use, file_high: file });
                self.pieces.retain(|piece| piece.index + PARTS * PIECES >= index);
            }
        }
    }

    /// When the quota is reached, and the story when a warning begins or is over. `next_round` is the schedule's.
    pub fn judge(
        &mut self,
        quota: Quota,
        next_round: Option<DateTime<Utc>>,
        now: Now,
    ) -> (Option<Growth>, Option<Say>) {
        let horizon = next_round.unwrap_or(now.wall + NO_ROUND);
        let growth =
            self.forecast(quota, now).map(|growth| Growth { before_next_round: growth.reached_at < horizon, ..growth });
        let say = |text| Some(Say { round: None, text, blocked: None });
        let imminent = growth.as_ref().filter(|growth| growth.before_next_round);
        let told = match (imminent, self.warned) {
            (Some(growth), before) => {
                self.warned = Some(now.mono);
                if before.is_none() { say(self.warning(growth, next_round)) } else { None }
            }
            (None, Some(last)) if now.mono.since(last) >= RELIEF => {
                self.warned = None;
                say(format!(
                    "growth does not reach the quota before the next round any more: {} bytes in use, the file has {}",
                    self.pieces.back().map_or(0, |piece| piece.in_use_high),
                    self.file
                ))
            }
            _ => None,
        };
        (growth, told)
    }

    fn warning(&self, growth: &Growth, next_round: Option<DateTime<Utc>>) -> String {
        let before = match next_round {
            Some(next) => format!("before the next round at {}", instant(next)),
            None => "and no round is scheduled".to_owned(),
        };
        let remedy = match growth.of {
            Growing::InUse => {
                "a defrag gives back free pages only: delete what is not needed, keep less history \
                 (compaction.retention), or raise --quota-backend-bytes"
            }
            Growing::File => {
                "what is in use grows less: let rounds come more often (defrag.schedule), or run `etcd-janitor defrag`"
            }
        };
        format!(
            "at its growth of {} bytes an hour {} reaches the quota of {} bytes at {}, {before}: {} bytes in use, the \
             file has {}; {remedy}",
            growth.bytes_per_hour,
            growth.of.name(),
            growth.quota,
            instant(growth.reached_at),
            self.pieces.back().map_or(0, |piece| piece.in_use_high),
            self.file
        )
    }

    /// The earlier of what is in use and the file; none when neither grows, and when the quota is reached already: that
    /// is the alarm's to say.
    fn forecast(&self, quota: Quota, now: Now) -> Option<Growth> {
        let Quota::Bytes(quota) = quota else { return None };
        if self.file >= quota {
            return None;
        }
        // The piece under way may lie within one tooth.
        let newest = self.index(now.mono).checked_sub(1)?;
        let mut lows = Vec::with_capacity(PARTS as usize);
        let mut highs = Vec::with_capacity(PARTS as usize);
        for back in (0..PARTS).rev() {
            let last = newest.checked_sub(back * PIECES)?;
            let within = |piece: &&Piece| piece.index <= last && piece.index + PIECES > last;
            let pieces = || self.pieces.iter().filter(within);
            if pieces().count() < ENOUGH_PIECES {
                return None;
            }
            lows.push(pieces().map(|piece| piece.in_use_low).min()?);
            highs.push(pieces().map(|piece| piece.file_high).max()?);
        }
        let noise = (quota as f64 * NOISE) as u64;
        let (in_use_step, file_step) = (lasting(&lows, noise), lasting(&highs, noise));

        // Teeth grow from their low points, so it is their high points that reach the quota.
        let recent = self.pieces.iter().filter(|piece| piece.index + PIECES > newest);
        let peak = recent.map(|piece| piece.in_use_high).max()?;
        let part = self.piece.as_secs_f64() * PIECES as f64;
        let reach = |level: u64, step: u64| (step > 0).then(|| quota.saturating_sub(level) as f64 / step as f64 * part);
        let both = [reach(peak, in_use_step), reach(self.file, file_step)];
        let seconds = both.into_iter().flatten().min_by(f64::total_cmp)?;
        let of = if in_use_step * 2 >= file_step { Growing::InUse } else { Growing::File };
        let per_hour = in_use_step.max(file_step) as f64 / part * 3600.0;
        let span = TimeDelta::milliseconds((seconds * 1000.0) as i64);
        Some(Growth {
            reached_at: now.wall.checked_add_signed(span)?,
            bytes_per_hour: per_hour as u64,
            quota,
            of,
            before_next_round: false,
        })
    }

    fn index(&self, now: Mono) -> u64 {
        (now.since_origin().as_millis() / self.piece.as_millis()) as u64
    }
}

/// A quarter longer than a tooth, so that a compaction that comes a little late still falls into each part.
fn piece(kept: Duration) -> Duration {
    kept.max(SHORTEST_TOOTH) * 5 / 4 / PIECES as u32
}

/// The mean of the steps upwards; 0 when one of them is none. At most twice the smallest, lest a load on top of a slow
/// trend counts as one. The smallest alone would be too little: a part has one tooth's low point or two.
fn lasting(levels: &[u64], noise: u64) -> u64 {
    let steps: Vec<u64> = levels.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let smallest = steps.iter().min().copied().unwrap_or(0);
    if smallest <= noise {
        return 0;
    }
    (steps.iter().sum::<u64>() / steps.len() as u64).min(smallest * 2)
}

#[cfg(test)]
mod tests;
