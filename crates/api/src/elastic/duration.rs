//! Durations in the group's fields: `1h30m`, `90s`, `250ms`, `700us`, without
//! signs or fractions, so that each has one meaning and a short pattern.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Longest accepted: a week.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const UNITS: [(&str, u64); 5] = [("us", 1), ("ms", 1000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// `None` if the text is not of the form, is zero, or is longer than [`LONGEST`].
pub fn parse(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total = total.checked_add(number.checked_mul(scale)?)?;
        rest = &rest[unit.len()..];
    }
    let duration = Duration::from_micros(total);
    (total > 0 && duration <= LONGEST).then_some(duration)
}

/// The shortest text that [`parse`] reads back; fractions of a microsecond are
/// cut off.
pub fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS.into_iter().rev() {
        if rest >= scale {
            text.push_str(&format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    text
}

/// For `#[serde(with)]`.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For `#[serde(with)]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "0s" => Ok(Duration::ZERO),
        text => parse(text).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not a duration of at most 168h; write for example 30s, 1h30m or 250ms"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nonsense_is_refused() {
        for (text, us) in [("30s", 30_000_000), ("250ms", 250_000), ("1h30m", 5_400_000_000), ("2m1s5ms", 121_005_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_micros(us)), "{text}");
        }
        for text in ["", "0s", "10", "s", "-1s", "1.5s", "1d", "99999999999h", "169h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for us in [1, 700, 1500, 30_000_000, 5_400_000_250] {
            let duration = Duration::from_micros(us);
            assert_eq!(parse(&format(duration)), Some(duration), "{}", format(duration));
        }
        assert_eq!(format(Duration::from_micros(121_005_000)), "2m1s5ms");
        assert_eq!(format(Duration::ZERO), "0s");
    }
}
