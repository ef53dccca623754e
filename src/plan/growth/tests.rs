use super::*;

const MIB: u64 = 1 << 20;
const QUOTA: Quota = Quota::Bytes(2048 * MIB);
const HOUR: f64 = 3600.0;
/// The daemon asks more often; nothing here depends on it.
const EVERY: Duration = Duration::from_secs(55);

/// A member, told by its bytes in use at each second. The file is what was ever in use, as with a member whose free pages
/// all fit.
struct Member {
    watch: Watch,
    file: u64,
    at: Duration,
    said: Vec<String>,
}

impl Member {
    fn new() -> Self {
        Member { watch: Watch::new(Duration::from_secs(3600)), file: 0, at: Duration::ZERO, said: Vec::new() }
    }

    fn now(&self) -> Now {
        let midnight: DateTime<Utc> = "2026-11-22T00:00:00Z".parse().unwrap();
        Now { mono: Mono::new(self.at), wall: midnight + self.at }
    }

    /// Lives for so many hours; the next round is always a day ahead. Gives what was ever forecast.
    fn live(&mut self, hours: f64, in_use: impl Fn(f64) -> f64) -> Vec<Growth> {
        let end = self.at + Duration::from_secs_f64(hours * HOUR);
        let mut forecasts = Vec::new();
        while self.at < end {
            let in_use = in_use(self.at.as_secs_f64() / HOUR) as u64 * MIB;
            self.file = self.file.max(in_use);
            forecasts.extend(self.tell(in_use));
            self.at += EVERY;
        }
        forecasts
    }

    fn tell(&mut self, in_use: u64) -> Option<Growth> {
        let now = self.now();
        self.watch.sample(self.file, in_use, now.mono);
        let (growth, say) = self.watch.judge(QUOTA, Some(now.wall + TimeDelta::days(1)), now);
        self.said.extend(say.map(|say| say.text));
        growth
    }

    /// What is seen now.
    fn growth(&self, quota: Quota) -> Option<Growth> {
        self.watch.forecast(quota, self.now())
    }
}

/// From `low` upwards by `height` within `period` hours, and down again.
fn tooth(at: f64, low: f64, height: f64, period: f64) -> f64 {
    low + height * (at / period).fract()
}

#[test]
fn steady_growth_is_forecast_to_the_hour_and_said_once() {
    let mut member = Member::new();
    let seen = member.live(6.0, |at| 200.0 + 100.0 * at);
    let last = seen.last().unwrap();
    let left = (last.reached_at - member.now().wall).as_seconds_f64() / HOUR;
    assert!((left - 12.48).abs() < 0.2, "{left} h");
    assert!((last.bytes_per_hour as f64 / MIB as f64 - 100.0).abs() < 2.0, "{last:?}");
    assert!(last.before_next_round && last.of == Growing::InUse, "{last:?}");
    assert_eq!(member.said.len(), 1, "{:?}", member.said);
    for words in ["reaches the quota of 2147483648 bytes at 2026-11-22T18:", "before the next round at", "free pages"] {
        assert!(member.said[0].contains(words), "{:?}", member.said);
    }
}

#[test]
fn nothing_is_said_before_four_parts_were_seen() {
    let mut member = Member::new();
    assert_eq!(member.live(4.75, |at| 200.0 + 100.0 * at), []);
    assert!(!member.live(0.1, |at| 200.0 + 100.0 * at).is_empty());
}

#[test]
fn a_saw_without_a_trend_is_no_growth() {
    // As apiserver, this program and etcd compact, with a compaction that comes late, and one tooth in an hour and a quarter.
    for period in [1.0 / 12.0, 0.5, 1.0, 1.003, 1.1, 1.2] {
        for height in [100.0, 1500.0] {
            let mut member = Member::new();
            let seen = member.live(30.0, |at| tooth(at, 400.0, height, period));
            assert_eq!((seen, member.said), (vec![], vec![]), "{height} MiB every {period} h");
        }
    }
}

#[test]
fn teeth_of_random_length_and_height_are_no_growth() {
    // Fixed numbers that look like chance.
    let chance = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as f64 / (1u64 << 31) as f64;
    let saw = |at: f64| {
        let (mut begin, mut n) = (0.0, 0);
        loop {
            let (length, height) = (0.3 + 0.7 * chance(2 * n), 300.0 + 300.0 * chance(2 * n + 1));
            if at < begin + length {
                return 400.0 + height * (at - begin) / length;
            }
            begin += length;
            n += 1;
        }
    };
    let mut member = Member::new();
    let imminent = member.live(48.0, saw).into_iter().filter(|growth| growth.before_next_round).count();
    assert_eq!((imminent, member.said), (0, vec![]));
}

#[test]
fn a_saw_with_a_trend_reaches_the_quota_with_its_points() {
    let mut member = Member::new();
    let seen = member.live(12.0, |at| tooth(at, 200.0, 600.0, 1.0) + 50.0 * at);
    // The points are at 800 MiB + 50 MiB an hour: 2048 MiB after 25 h, half a day from now.
    let left = (seen.last().unwrap().reached_at - member.now().wall).as_seconds_f64() / HOUR;
    assert!((left - 13.0).abs() < 1.5, "{left} h");
    assert_eq!(member.said.len(), 1, "{:?}", member.said);
}

#[test]
fn a_step_and_a_burst_are_no_growth() {
    let mut member = Member::new();
    let step = |at: f64| if at < 5.0 { 400.0 } else { 1200.0 };
    assert_eq!(member.live(12.0, step), [], "one load of data");
    let mut member = Member::new();
    let ramp = |at: f64| 400.0 + 800.0 * (at - 5.0).clamp(0.0, 1.0);
    assert_eq!(member.live(12.0, ramp), [], "a load that takes an hour");
    let mut member = Member::new();
    let burst = |at: f64| 400.0 + if (5.0..6.5).contains(&at) { 900.0 } else { 0.0 };
    assert_eq!(member.live(12.0, burst), [], "written and compacted");
}

#[test]
fn history_that_is_kept_on_purpose_is_no_growth() {
    // A new cluster: everything grows until the first revisions are older than a retention of eight hours.
    let mut member = Member { watch: Watch::new(Duration::from_secs(8 * 3600)), ..Member::new() };
    assert_eq!(member.live(48.0, |at| 200.0 + 150.0 * at.min(8.0)), []);
}

#[test]
fn shrinking_noise_and_what_would_take_weeks_are_no_growth() {
    for (why, slope) in [("shrinks", -20.0), ("stands still", 0.0), ("weeks", 1.0)] {
        let mut member = Member::new();
        let noise = |at: f64| if ((at * 600.0) as u64).is_multiple_of(7) { 8.0 } else { 0.0 };
        assert_eq!(member.live(12.0, |at| 1200.0 + slope * at + noise(at)), [], "{why}");
    }
}

#[test]
fn what_has_free_pages_left_reaches_the_quota_all_the_same_and_no_defrag_helps() {
    // The file was larger once: it stands still, and what is in use grows into its free pages.
    let mut member = Member::new();
    member.file = 1900 * MIB;
    let seen = member.live(6.0, |at| 200.0 + 100.0 * at);
    let last = seen.last().unwrap();
    assert!(last.of == Growing::InUse && last.before_next_round, "{last:?}");
    // A round in between gives the file's pages back and changes nothing of it.
    member.file = 800 * MIB;
    let after = member.live(0.5, |at| 200.0 + 100.0 * at);
    let (before, after) = (last.reached_at, after.last().unwrap().reached_at);
    assert!((after - before).abs() < TimeDelta::minutes(30), "{before} {after}");
    assert_eq!(member.said.len(), 1, "{:?}", member.said);
}

#[test]
fn a_file_that_outgrows_what_is_in_use_wants_a_defrag() {
    let mut member = Member::new();
    while member.at < Duration::from_secs(6 * 3600) {
        member.file = 600 * MIB + (member.at.as_secs_f64() / HOUR * 120.0) as u64 * MIB;
        member.tell(400 * MIB);
        member.at += EVERY;
    }
    let growth = member.growth(QUOTA).unwrap();
    assert_eq!(growth.of, Growing::File);
    assert!(member.said[0].contains("etcd-janitor defrag"), "{:?}", member.said);
    // The round comes; the file is as large as what is in use and grows no more.
    member.file = 400 * MIB;
    member.live(2.0, |_| 400.0);
    assert_eq!(member.growth(QUOTA), None);
    assert_eq!(member.said.len(), 2, "{:?}", member.said);
    assert!(member.said[1].contains("does not reach the quota before the next round any more"), "{:?}", member.said);
}

#[test]
fn a_warning_does_not_flap_at_the_horizon() {
    let mut member = Member::new();
    member.live(6.0, |at| 200.0 + 100.0 * at);
    // Deleted and compacted: over after half an hour, once.
    member.live(0.4, |_| 100.0);
    assert_eq!(member.said.len(), 1, "{:?}", member.said);
    member.live(6.0, |_| 100.0);
    assert_eq!(member.said.len(), 2, "{:?}", member.said);
}

#[test]
fn a_round_before_the_quota_is_reached_is_no_warning_and_without_a_schedule_a_day_counts() {
    let mut member = Member::new();
    member.live(6.0, |at| 200.0 + 100.0 * at);
    let mut told = |next| {
        let now = member.now();
        member.watch.judge(QUOTA, next, now).0.unwrap().before_next_round
    };
    let midnight: DateTime<Utc> = "2026-11-22T00:00:00Z".parse().unwrap();
    assert!(!told(Some(midnight + TimeDelta::hours(18))));
    assert!(told(Some(midnight + TimeDelta::hours(19))));
    assert!(told(None));
}

#[test]
fn without_a_quota_and_beyond_it_nothing_is_forecast() {
    let mut member = Member::new();
    member.live(6.0, |at| 200.0 + 100.0 * at);
    assert!(member.growth(QUOTA).is_some());
    for quota in [Quota::Unknown, Quota::Disabled, Quota::Bytes(0), Quota::Bytes(700 * MIB)] {
        assert_eq!(member.growth(quota), None, "{quota:?}");
    }
}

#[test]
fn hours_that_were_not_seen_say_nothing_and_memory_is_bounded() {
    let mut member = Member::new();
    member.live(6.0, |at| 200.0 + 100.0 * at);
    assert!(member.growth(QUOTA).is_some());
    // etcd was away for an hour and a quarter, in which more came than before.
    member.at += Duration::from_secs(4500);
    assert_eq!(member.tell(1500 * MIB), None);
    member.live(40.0, |_| 1500.0);
    assert_eq!(member.watch.pieces.len(), 61);
    member.watch.set_kept(Duration::from_secs(1800));
    assert_eq!(member.watch.pieces.len(), 61, "not shorter than a tooth");
    member.watch.set_kept(Duration::from_secs(7200));
    assert_eq!(member.watch.pieces.len(), 0, "parts are longer now");
}
