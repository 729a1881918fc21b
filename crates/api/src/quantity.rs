//! `resource.Quantity`: exact decimal amounts such as `1500m`, `2Gi`, `1e3`.
//!
//! Parses, compares and rounds; it does not remember how a quantity was
//! written, so printing an object again is not done from here.

/// Nano-units in one unit: the finest step a quantity has.
const NANOS: i128 = 1_000_000_000;
/// Largest value upstream keeps, 2^63-1 units; greater input is capped to it.
const MAX_UNITS: i128 = i64::MAX as i128;
/// Digits that a number may have before it cannot matter any more.
const MAX_DIGITS: usize = 60;

/// An amount in nano-units. Values finer than a nano-unit are rounded away
/// from zero, values beyond 2^63-1 units are capped, both as upstream does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Quantity(i128);

/// Why a text is not a quantity.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum QuantityError {
    /// Not a number with an optional suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is right, its suffix unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From whole units.
    pub const fn from_units(units: i64) -> Self {
        Self(units as i128 * NANOS)
    }

    /// From thousandths of a unit.
    pub const fn from_milli(milli: i64) -> Self {
        Self(milli as i128 * (NANOS / 1000))
    }

    /// Parses `[sign]digits[.digits][suffix]`; suffixes are `n u m k M G T P E`,
    /// `Ki Mi Gi Ti Pi Ei` and decimal exponents.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        let scale = Scale::parse(suffix)?;
        let amount = scale.nanos(whole, fraction).min(MAX_UNITS * NANOS);
        Ok(Self(if negative { -amount } else { amount }))
    }

    /// Whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        round_up(self.0, NANOS)
    }

    /// Thousandths of a unit, rounded away from zero and capped.
    pub fn milli_value(self) -> i64 {
        round_up(self.0, NANOS / 1000)
    }

    /// True if it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

fn round_up(nanos: i128, step: i128) -> i64 {
    let quotient = nanos / step;
    let rounded = if nanos % step == 0 { quotient } else { quotient + nanos.signum() };
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

enum Scale {
    /// Power of ten.
    Decimal(i32),
    /// Power of two.
    Binary(u32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<Self, QuantityError> {
        Ok(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            _ => {
                let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
                let exponent: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
                Self::Decimal(exponent.clamp(-100, 100))
            }
        })
    }

    /// The number `whole.fraction` in nano-units, rounded up and capped.
    fn nanos(&self, whole: &str, fraction: &str) -> i128 {
        match *self {
            Self::Decimal(exponent) => decimal_nanos(whole, fraction, exponent + 9),
            Self::Binary(bits) => {
                // A fraction of a power of two: its nano-units are computed
                // digit by digit, exact up to the last digit kept.
                let units = parse_capped(whole).saturating_mul(1_i128 << bits).min(MAX_UNITS);
                let mut total = units.saturating_mul(NANOS);
                let mut rest = (NANOS << bits) as u128;
                let mut lost = false;
                for digit in fraction.bytes().take(MAX_DIGITS) {
                    lost |= rest % 10 != 0 && digit != b'0';
                    rest /= 10;
                    total = total.saturating_add((rest * u128::from(digit - b'0')) as i128);
                }
                total + i128::from(lost)
            }
        }
    }
}

/// `whole.fraction` times ten to `exponent`, rounded up.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i32) -> i128 {
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let point = whole.len() as i64 + i64::from(exponent);
    let keep = point.max(0) as usize;
    let lost = digits.get(keep..).is_some_and(|rest| rest.iter().any(|digit| *digit != b'0'))
        || (point < 0 && digits.iter().any(|digit| *digit != b'0'));
    if point < 0 {
        return i128::from(lost);
    }
    digits.resize(keep, b'0');
    let text: String = digits.into_iter().map(char::from).collect();
    parse_capped(&text).saturating_add(i128::from(lost))
}

fn parse_capped(digits: &str) -> i128 {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    digits.parse().unwrap_or(i128::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_give_units_and_milli_units() {
        for (text, value, milli) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1.5", 2, 1500),
            (".5", 1, 500),
            ("1Ki", 1024, 1_024_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("0.1Ki", 103, 102_400),
            ("1e3", 1000, 1_000_000),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("1E3", 1000, 1_000_000),
            ("-2500m", -3, -2500),
            ("+1k", 1000, 1_000_000),
            ("1n", 1, 1),
            ("0.0000000001", 1, 1),
            ("100Ei", i64::MAX, i64::MAX),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(quantity.value(), value, "{text}");
            assert_eq!(quantity.milli_value(), milli, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", ".", "abc", "1..2", "1Kib", "1 Gi", "1e", "1ex", "Gi"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }
}
