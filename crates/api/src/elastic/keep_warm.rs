//! Times in which nothing sleeps. Where time zones come from is not known here.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// Days looked ahead for the next boundary: a weekly window has one by then.
const DAYS_AHEAD: i64 = 8;

/// A daily time of day, on some days of the week.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmWindow {
    /// Days on which it starts; empty: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
    /// `08:00`.
    pub start: String,
    /// `18:00`; not after `start`: on the next day.
    pub end: String,
    /// IANA name, `Europe/Berlin`; absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// A day of the week.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Weekday {
    fn of(date: Date) -> Self {
        use jiff::civil::Weekday as Day;
        match date.weekday() {
            Day::Monday => Self::Mon,
            Day::Tuesday => Self::Tue,
            Day::Wednesday => Self::Wed,
            Day::Thursday => Self::Thu,
            Day::Friday => Self::Fri,
            Day::Saturday => Self::Sat,
            Day::Sunday => Self::Sun,
        }
    }
}

/// A window that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("keepWarm.{field}: {value:?} is not a time of day like 08:30")]
pub struct WindowError {
    field: &'static str,
    value: String,
}

impl WarmWindow {
    /// Whether `now` lies in the window, and the next time at which that
    /// changes, in the given zone.
    pub fn at(&self, zone: &TimeZone, now: Timestamp) -> Result<(bool, Option<Timestamp>), WindowError> {
        let start = time_of_day("start", &self.start)?;
        let end = time_of_day("end", &self.end)?;
        let today = zone.to_datetime(now).date();
        let mut warm = false;
        let mut next: Option<Timestamp> = None;
        for ahead in -1..=DAYS_AHEAD {
            let Ok(day) = today.checked_add(Span::new().days(ahead)) else { continue };
            if !self.days.is_empty() && !self.days.contains(&Weekday::of(day)) {
                continue;
            }
            let last = if end > start { Ok(day) } else { day.tomorrow() };
            // A time that a clock change skips or doubles is read as jiff's
            // "compatible" rule says; a day outside of its range has no window.
            let instant = |day: Date, time: Time| zone.to_timestamp(day.to_datetime(time)).ok();
            let Some((from, to)) = last.ok().and_then(|last| Some((instant(day, start)?, instant(last, end)?))) else {
                continue;
            };
            warm |= from <= now && now < to;
            let boundary = [from, to].into_iter().filter(|at| *at > now).min();
            next = match (next, boundary) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Ok((warm, next))
    }
}

fn time_of_day(field: &'static str, text: &str) -> Result<Time, WindowError> {
    let fail = || WindowError { field, value: text.to_owned() };
    let (hour, minute) = text.split_once(':').filter(|_| text.len() == 5).ok_or_else(fail)?;
    let number = |digits: &str| digits.parse::<i8>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let (hour, minute) = number(hour).zip(number(minute)).ok_or_else(fail)?;
    Time::new(hour, minute, 0, 0).map_err(|_| fail())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Weekday], start: &str, end: &str) -> WarmWindow {
        WarmWindow { days: days.to_vec(), start: start.into(), end: end.into(), time_zone: None }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_window_begins_and_ends_at_its_times() {
        let office = window(&[Weekday::Mon, Weekday::Fri], "08:00", "18:00");
        let at = |text| office.at(&TimeZone::UTC, time(text)).expect("a window");
        // 2026-11-23 is a Monday.
        assert_eq!(at("2026-11-23T07:59:59Z"), (false, Some(time("2026-11-23T08:00:00Z"))));
        assert_eq!(at("2026-11-23T08:00:00Z"), (true, Some(time("2026-11-23T18:00:00Z"))));
        assert_eq!(at("2026-11-23T18:00:00Z"), (false, Some(time("2026-11-27T08:00:00Z"))));
        assert_eq!(at("2026-11-28T09:00:00Z"), (false, Some(time("2026-11-30T08:00:00Z"))));
    }

    #[test]
    fn a_window_may_cross_midnight_and_belongs_to_its_first_day() {
        let night = window(&[Weekday::Sat], "22:00", "02:00");
        let at = |text| night.at(&TimeZone::UTC, time(text)).expect("a window").0;
        assert!(at("2026-11-28T23:00:00Z") && at("2026-11-29T01:59:00Z"));
        assert!(!at("2026-11-28T01:00:00Z") && !at("2026-11-29T23:00:00Z"));
    }

    #[test]
    fn the_zone_moves_the_window() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let (warm, next) = window(&[], "08:00", "09:00").at(&zone, time("2026-11-23T06:30:00Z")).expect("a window");
        assert_eq!((warm, next), (true, Some(time("2026-11-23T07:00:00Z"))));
    }

    #[test]
    fn a_bad_time_is_named_with_its_field() {
        let error = window(&[], "08:00", "24:30").at(&TimeZone::UTC, time("2026-11-23T06:30:00Z")).unwrap_err();
        assert_eq!(error.to_string(), "keepWarm.end: \"24:30\" is not a time of day like 08:30");
        assert!(window(&[], "8:00", "09:00").at(&TimeZone::UTC, time("2026-11-23T06:30:00Z")).is_err());
    }
}
