//! Timestamps and durations. Zones are UTC or an offset: names of zones need
//! data that the binary does not carry.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::super::eval::Fault;
use super::super::functions::{Function, Row, fault};
use super::super::value::Val;
use super::text;

macro_rules! parts {
    ($($name:literal => $part:expr),*) => {
        &[$(
            (concat!("timestamp@", $name, "(): int"), (|v| part(v, $part)) as Function),
            (concat!("timestamp@", $name, "(string): int"), |v| part(v, $part)),
        )*]
    };
}

static PARTS: &[Row] = parts!(
    "getFullYear" => |at| i64::from(at.year()),
    "getMonth" => |at| i64::from(at.month()) - 1,
    "getDate" => |at| i64::from(at.day()),
    "getDayOfMonth" => |at| i64::from(at.day()) - 1,
    "getDayOfWeek" => |at| i64::from(at.weekday().to_sunday_zero_offset()),
    "getDayOfYear" => |at| i64::from(at.day_of_year()) - 1,
    "getHours" => |at| i64::from(at.hour()),
    "getMinutes" => |at| i64::from(at.minute()),
    "getSeconds" => |at| i64::from(at.second()),
    "getMilliseconds" => |at| i64::from(at.millisecond())
);

static OTHERS: &[Row] = &[
    ("duration@getHours(): int", |v| whole(v, 3_600_000_000_000)),
    ("duration@getMinutes(): int", |v| whole(v, 60_000_000_000)),
    ("duration@getSeconds(): int", |v| whole(v, 1_000_000_000)),
    ("duration@getMilliseconds(): int", |v| whole(v, 1_000_000)),
    ("duration(duration): duration", |v| Ok(v[0].clone())),
    ("duration(int): duration", |v| match &v[0] {
        Val::Int(nanoseconds) => Ok(Val::Duration(*nanoseconds)),
        _ => Err(Fault::Overload),
    }),
    ("duration(string): duration", |v| {
        let given = text(&v[0])?;
        let parsed = duration(given).map(Val::Duration);
        parsed.map_or_else(|| fault(format!("time: invalid duration {}", crate::field::Quoted(given))), Ok)
    }),
    ("timestamp(timestamp): timestamp", |v| Ok(v[0].clone())),
    ("timestamp(int): timestamp", |v| match &v[0] {
        Val::Int(seconds) => {
            Timestamp::from_second(*seconds).map(Val::Timestamp).or_else(|_| fault("timestamp overflow"))
        }
        _ => Err(Fault::Overload),
    }),
    ("timestamp(string): timestamp", |v| {
        let given = text(&v[0])?;
        let parsed = given.parse().map(Val::Timestamp);
        parsed.or_else(|_| fault(format!("parsing time {}: invalid timestamp", crate::field::Quoted(given))))
    }),
];

pub(super) static FUNCTIONS: &[&[Row]] = &[PARTS, OTHERS];

fn part(v: &[Val], of: fn(&jiff::Zoned) -> i64) -> Result<Val, Fault> {
    let Val::Timestamp(at) = &v[0] else { return Err(Fault::Overload) };
    let zone = match v.get(1) {
        Some(zone) => zone_of(text(zone)?)?,
        None => TimeZone::UTC,
    };
    Ok(Val::Int(of(&at.to_zoned(zone))))
}

/// `UTC`, or hours and minutes such as `-08:00`.
fn zone_of(name: &str) -> Result<TimeZone, Fault> {
    if matches!(name, "UTC" | "Z" | "GMT" | "Etc/UTC") {
        return Ok(TimeZone::UTC);
    }
    let offset = || {
        let (hours, minutes) = name.split_once(':')?;
        let negative = hours.starts_with('-');
        let hours: i32 = hours.trim_start_matches(['+', '-']).parse().ok()?;
        let minutes: i32 = minutes.parse().ok()?;
        let seconds = (hours * 60 + minutes) * 60;
        Offset::from_seconds(if negative { -seconds } else { seconds }).ok()
    };
    offset().map(TimeZone::fixed).map_or_else(|| fault(format!("unknown time zone {name}")), Ok)
}

fn whole(v: &[Val], unit: i64) -> Result<Val, Fault> {
    match &v[0] {
        Val::Duration(length) => Ok(Val::Int(length / unit)),
        _ => Err(Fault::Overload),
    }
}

/// Nanoseconds of a duration as Go writes it: `1h2m3.5s`.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
        if integer.is_empty() && fraction.is_empty() {
            return None;
        }
        let integer: i128 = if integer.is_empty() { 0 } else { integer.parse().ok()? };
        total = total.checked_add(integer.checked_mul(unit)?)?;
        if !fraction.is_empty() {
            let shown = &fraction[..fraction.len().min(15)];
            total += shown.parse::<i128>().ok()? * unit / 10_i128.pow(shown.len() as u32);
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration as CEL writes it: seconds.
pub(super) fn written(nanoseconds: i64) -> String {
    let (whole, rest) = (nanoseconds / 1_000_000_000, (nanoseconds % 1_000_000_000).unsigned_abs());
    if rest == 0 {
        return format!("{whole}s");
    }
    let sign = if nanoseconds < 0 && whole == 0 { "-" } else { "" };
    format!("{sign}{whole}.{}s", format!("{rest:09}").trim_end_matches('0'))
}
