//! Time zones by their names, as the schedules' calendar wants them.
//!
//! The IANA database is a part of the program: an image has none, and two janitors must not differ in what they mean by
//! `Europe/Paris`. chrono's own crate for it is a table full of addresses, a megabyte that each start writes anew and each
//! pod pays for; jiff's is text that lies in the file until somebody asks.

use std::fmt;
use std::str::FromStr;

use chrono::{
    Datelike, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Timelike, Utc,
};
use jiff::Timestamp;
use jiff::tz::{self, AmbiguousOffset};

/// A zone of the IANA database.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(tz::TimeZone);

/// What a name may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no time zone of the IANA database, which is particular about small and capital letters")]
pub struct UnknownZone;

impl Zone {
    /// The zone of instants.
    pub const UTC: Zone = Zone(tz::TimeZone::UTC);

    /// As the database has it: `Europe/Paris`.
    pub fn name(&self) -> &str {
        // Every zone here was found by its name.
        self.0.iana_name().unwrap_or("UTC")
    }

    fn offset_at(&self, at: Timestamp) -> ZoneOffset {
        let seconds = self.0.to_offset(at).seconds();
        // Less than a day in every zone, which is what chrono takes.
        let fixed = FixedOffset::east_opt(seconds).unwrap_or_else(|| Utc.fix());
        ZoneOffset { zone: self.clone(), at, fixed }
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(name: &str) -> Result<Zone, UnknownZone> {
        let zone = tz::db().get(name).map(Zone).map_err(|_| UnknownZone)?;
        // It does not mind capital letters, and has a name for a zone that is not known.
        if zone.name() == name && !zone.0.is_unknown() { Ok(zone) } else { Err(UnknownZone) }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a zone's clock is ahead of UTC at an instant. Displayed as that clock's short name there: `CEST`, `+0545`.
#[derive(Clone)]
pub struct ZoneOffset {
    zone: Zone,
    at: Timestamp,
    fixed: FixedOffset,
}

impl Offset for ZoneOffset {
    fn fix(&self) -> FixedOffset {
        self.fixed
    }
}

impl fmt::Display for ZoneOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.zone.0.to_offset_info(self.at).abbreviation())
    }
}

impl fmt::Debug for ZoneOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TimeZone for Zone {
    type Offset = ZoneOffset;

    fn from_offset(offset: &ZoneOffset) -> Zone {
        offset.zone.clone()
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<ZoneOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<ZoneOffset> {
        let Some(civil) = civil(local) else { return MappedLocalTime::None };
        let offset = |offset: tz::Offset| offset.to_timestamp(civil).ok().map(|at| self.offset_at(at));
        match self.0.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset: only } => {
                offset(only).map_or(MappedLocalTime::None, MappedLocalTime::Single)
            }
            AmbiguousOffset::Gap { .. } => MappedLocalTime::None,
            AmbiguousOffset::Fold { before, after } => match (offset(before), offset(after)) {
                (Some(before), Some(after)) => MappedLocalTime::Ambiguous(before, after),
                _ => MappedLocalTime::None,
            },
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> ZoneOffset {
        self.offset_from_utc_datetime(&utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> ZoneOffset {
        let seconds = utc.and_utc().timestamp();
        // chrono's years go further than jiff's, in which no zone changes any more.
        let furthest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        self.offset_at(Timestamp::from_second(seconds).unwrap_or(furthest))
    }
}

/// To the second, which is as fine as zones are; none outside jiff's years.
fn civil(local: &NaiveDateTime) -> Option<jiff::civil::DateTime> {
    let small = |number: u32| i8::try_from(number).ok();
    let year = i16::try_from(local.year()).ok()?;
    let (month, day) = (small(local.month())?, small(local.day())?);
    let (hour, minute, second) = (small(local.hour())?, small(local.minute())?, small(local.second())?);
    jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn zone(name: &str) -> Zone {
        name.parse().unwrap()
    }

    fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    #[test]
    fn an_instant_has_its_clock_and_its_short_name() {
        let at = |text: &str, name| {
            let at: DateTime<Utc> = text.parse().unwrap();
            at.with_timezone(&zone(name)).format("%F %T %Z %:z").to_string()
        };
        assert_eq!(at("2026-10-25T00:59:59Z", "Europe/Paris"), "2026-10-25 02:59:59 CEST +02:00");
        assert_eq!(at("2026-10-25T01:00:00Z", "Europe/Paris"), "2026-10-25 02:00:00 CET +01:00");
        // Beyond the last change that the database has written out.
        assert_eq!(at("2150-07-01T00:00:00Z", "America/New_York"), "2150-06-30 20:00:00 EDT -04:00");
        assert_eq!(at("2026-11-29T00:00:00Z", "Asia/Kathmandu"), "2026-11-29 05:45:00 +0545 +05:45");
        assert_eq!(at("2026-11-29T00:00:00Z", "UTC"), "2026-11-29 00:00:00 UTC +00:00");
    }

    #[test]
    fn a_time_on_the_wall_can_come_once_twice_or_never() {
        let paris = zone("Europe/Paris");
        let instants = |text: &str| match paris.from_local_datetime(&local(text)) {
            MappedLocalTime::Single(at) => vec![at.to_utc().to_rfc3339()],
            MappedLocalTime::Ambiguous(first, second) => {
                vec![first.to_utc().to_rfc3339(), second.to_utc().to_rfc3339()]
            }
            MappedLocalTime::None => Vec::new(),
        };
        assert_eq!(instants("2026-10-25T01:30:00"), ["2026-10-24T23:30:00+00:00"]);
        assert_eq!(instants("2026-10-25T02:30:00"), ["2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00"]);
        assert_eq!(instants("2027-03-28T02:30:00"), [""; 0]);
        assert_eq!(instants("2027-03-28T03:00:00"), ["2027-03-28T01:00:00+00:00"]);
    }

    #[test]
    fn names_are_the_databases() {
        for name in ["UTC", "Etc/UTC", "Europe/Paris", "US/Eastern", "Asia/Calcutta", "America/Argentina/Buenos_Aires"]
        {
            assert_eq!(zone(name).to_string(), name);
        }
        for name in ["", "europe/paris", "Europe/Parys", "CEST", "+02:00", "Etc/Unknown", "utc", "../UTC", "Local"] {
            assert_eq!(name.parse::<Zone>(), Err(UnknownZone), "{name}");
        }
        assert_eq!(zone("Europe/Paris"), zone("Europe/Paris"));
        assert_ne!(zone("Europe/Paris"), zone("Europe/Berlin"));
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_panic() {
        for at in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            for name in ["UTC", "Asia/Tokyo", "America/New_York"] {
                assert!(zone(name).offset_from_utc_datetime(&at.naive_utc()).to_string().len() > 2);
                assert!(zone(name).offset_from_local_datetime(&at.naive_utc()).single().is_none());
            }
        }
    }
}
