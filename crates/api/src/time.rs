//! Times as Kubernetes writes them: RFC 3339 in UTC, whole seconds or whole
//! microseconds; and durations. Reads no clock but in [`now`].

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// A text that is no RFC 3339 time, in the words of Go's `time.Parse`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {expected:?}")]
pub struct TimeError {
    text: String,
    layout: &'static str,
    rest: String,
    expected: &'static str,
}

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// `2026-01-02T03:04:05Z`; fractions are cut off.
pub fn format(time: Timestamp) -> String {
    render(time, false)
}

/// `2026-01-02T03:04:05.000006Z`.
pub fn format_micro(time: Timestamp) -> String {
    render(time, true)
}

fn render(time: Timestamp, micro: bool) -> String {
    let t = Offset::UTC.to_datetime(time);
    let mut out =
        format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", t.year(), t.month(), t.day(), t.hour(), t.minute(), t.second());
    if micro {
        out.push_str(&format!(".{:06}", t.subsec_nanosecond() / 1000));
    }
    out.push('Z');
    out
}

/// A duration as `metav1.Duration` writes it: `1h0m5s`, `15.25s`, `80ms`, `0s`.
pub fn format_duration(duration: SignedDuration) -> String {
    let sign = if duration.is_negative() { "-" } else { "" };
    let total = duration.unsigned_abs();
    let (seconds, nanos) = (total.as_secs(), total.subsec_nanos());
    if seconds == 0 {
        let (unit, scale) = match nanos {
            0 => return "0s".to_owned(),
            1..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{sign}{}{unit}", decimal(nanos.into(), scale));
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal(seconds % 60 * 1_000_000_000 + u64::from(nanos), 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{rest}s"),
        (0, _) => format!("{sign}{minutes}m{rest}s"),
        _ => format!("{sign}{hours}h{minutes}m{rest}s"),
    }
}

/// `value / scale` without trailing zeros; `scale` is a power of ten.
fn decimal(value: u64, scale: u64) -> String {
    let (whole, part) = (value / scale, value % scale);
    if part == 0 {
        return whole.to_string();
    }
    let digits = scale.ilog10() as usize;
    let text = format!("{whole}.{part:0digits$}");
    text.trim_end_matches('0').to_owned()
}

/// Reads RFC 3339 with any offset and any fraction.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    parse_as(text, RFC3339)
}

/// Reads a `MicroTime`; only the words of the error differ.
pub fn parse_micro(text: &str) -> Result<Timestamp, TimeError> {
    parse_as(text, RFC3339_MICRO)
}

fn parse_as(text: &str, layout: &'static str) -> Result<Timestamp, TimeError> {
    if let Some(stop) = first_mistake(text, layout == RFC3339_MICRO) {
        return Err(TimeError { text: text.to_owned(), layout, rest: text[stop.0..].to_owned(), expected: stop.1 });
    }
    text.parse().map_err(|_| TimeError { text: text.to_owned(), layout, rest: text.to_owned(), expected: "2006" })
}

/// Where the text leaves the layout, and what Go expected there.
fn first_mistake(text: &str, micro: bool) -> Option<(usize, &'static str)> {
    let bytes = text.as_bytes();
    let parts: [(usize, usize, &'static str); 11] = [
        (0, 4, "2006"),
        (4, 5, "-"),
        (5, 7, "01"),
        (7, 8, "-"),
        (8, 10, "02"),
        (10, 11, "T"),
        (11, 13, "15"),
        (13, 14, ":"),
        (14, 16, "04"),
        (16, 17, ":"),
        (17, 19, "05"),
    ];
    for (start, end, expected) in parts {
        let fits = bytes.get(start..end).is_some_and(|found| {
            if expected.len() == 1 { found == expected.as_bytes() } else { found.iter().all(u8::is_ascii_digit) }
        });
        if !fits {
            let start = (0..=start.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            return Some((start, expected));
        }
    }
    let mut at = 19;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Some((at, if micro { ".000000" } else { "Z07:00" }));
        }
        at += 1 + digits;
    } else if micro {
        return Some((at, ".000000"));
    }
    let zone = &bytes[at..];
    let offset =
        matches!(zone, [b'+' | b'-', a, b, b':', c, d] if [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()));
    (zone != b"Z" && !offset).then(|| ((0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0), "Z07:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_upstream_does() {
        let time = parse("2026-01-02T03:04:05.678901234+01:00").unwrap();
        assert_eq!(format(time), "2026-01-02T02:04:05Z");
        assert_eq!(format_micro(time), "2026-01-02T02:04:05.678901Z");
        assert_eq!(parse("0001-01-01T00:00:00Z").map(format).unwrap(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn durations_are_written_as_go_does() {
        let words = |nanos: i128| format_duration(SignedDuration::from_nanos_i128(nanos));
        assert_eq!(words(0), "0s");
        assert_eq!(words(1_500), "1.5\u{b5}s");
        assert_eq!(words(80_000_000), "80ms");
        assert_eq!(words(15_250_000_000), "15.25s");
        assert_eq!(words(3_605_000_000_000), "1h0m5s");
        assert_eq!(words(-60_000_000_001), "-1m0.000000001s");
    }

    #[test]
    fn a_text_that_is_no_time_is_refused_in_gos_words() {
        let words = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            words("yesterday"),
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#
        );
        assert_eq!(
            words("2026-01-02"),
            r#"parsing time "2026-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#
        );
        assert_eq!(
            words("2026-01-02T03:04:05"),
            r#"parsing time "2026-01-02T03:04:05" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#
        );
    }
}
