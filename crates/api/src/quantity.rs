//! `resource.Quantity`: exact decimal amounts such as `1500m`, `2Gi`, `1e3`.
//!
//! [`Quantity`] parses, compares and rounds; it does not remember how it was
//! written. [`Written`] does, and prints the canonical form.

mod written;

pub use written::{Format, Written};

/// Nano-units in one unit: the finest step a quantity has.
const NANOS: i128 = 1_000_000_000;
/// Largest value upstream keeps, 2^63-1 units; greater input is capped to it.
const MAX_UNITS: i128 = i64::MAX as i128;

/// An amount in nano-units. Values finer than a nano-unit are rounded away
/// from zero, values beyond 2^63-1 units are capped, both as upstream does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Quantity(i128);

/// Why a text is not a quantity.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuantityError {
    /// Not a number with an optional suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number has no digits that can be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The number is right, its suffix unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Upstream's canonical text of a quantity, as a round trip through its types gives it.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Ok(text.parse::<Written>()?.to_string())
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
        let cap = MAX_UNITS * NANOS;
        Ok(Self(text.parse::<Written>()?.nanos().clamp(-cap, cap)))
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
        for text in ["", "abc", "1..2", "1Kib", "1 Gi", "1e", "1ex"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }
}
