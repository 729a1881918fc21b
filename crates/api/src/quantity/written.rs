//! A quantity with the form it is written in: canonical text and arithmetic
//! that keeps suffixes, exact to 10^-9. Not a float anywhere.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use super::QuantityError;

/// The smallest unit: 10^-9. Anything finer is rounded away from zero.
const NANO: i32 = -9;
/// Digits that are read exactly; more are rounded away from zero.
const DIGITS: usize = 36;
/// Cap of quantities with a binary suffix.
const BINARY_CAP: i128 = i64::MAX as i128;

/// An amount, `mantissa × 10^scale`, and how it prints.
#[derive(Clone, Debug)]
pub struct Written {
    mantissa: i128,
    scale: i32,
    format: Format,
    /// The text as it was read where upstream keeps it.
    text: Option<Box<str>>,
}

/// Which suffixes the canonical form uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `m`, `k`, `M`, …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Written {
    /// Nothing, printed as `0`.
    pub const ZERO: Self = Self { mantissa: 0, scale: 0, format: Format::DecimalSi, text: None };

    /// A whole amount with decimal suffixes.
    pub fn from_i64(value: i64) -> Self {
        Self { mantissa: value.into(), ..Self::ZERO }
    }

    /// Thousandths with decimal suffixes.
    pub fn from_milli(value: i64) -> Self {
        Self { mantissa: value.into(), scale: -3, ..Self::ZERO }
    }

    /// A whole amount printed with binary suffixes: bytes.
    pub fn from_bytes(value: i64) -> Self {
        Self { mantissa: value.into(), format: Format::BinarySi, ..Self::ZERO }
    }

    /// Upstream's canonical text of `text`, as a round trip through its types gives it.
    pub fn canonical(text: &str) -> Result<String, QuantityError> {
        Ok(text.parse::<Self>()?.to_string())
    }

    /// Which suffixes it prints.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded away from zero; capped at the range of `i64`.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero; capped at the range of `i64`.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// `amount / 10^scale`, rounded away from zero; capped at the range of `i64`.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let value = rescale(self.mantissa, self.scale, scale).0;
        i64::try_from(value).unwrap_or(if value > 0 { i64::MAX } else { i64::MIN })
    }

    /// The nearest double.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.scale)
    }

    /// 10^-9 units, rounded away from zero; capped at the range of `i128`.
    pub(super) fn nanos(&self) -> i128 {
        rescale(self.mantissa, self.scale, NANO).0
    }

    /// Nothing at all.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn signum(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The product with a whole number; capped at what is representable.
    pub fn times(&self, factor: i64) -> Self {
        let mantissa = self.mantissa.saturating_mul(factor.into());
        Self { mantissa, scale: self.scale, format: self.format, text: None }
    }

    fn combine(&self, other: &Self, operation: fn(i128, i128) -> i128) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let (a, b, scale) = align(self, other);
        Self { mantissa: operation(a, b), scale, format, text: None }
    }
}

/// `mantissa × 10^from` in units of `10^to`, rounded away from zero, and
/// whether that is exact.
fn rescale(mantissa: i128, from: i32, to: i32) -> (i128, bool) {
    if from >= to {
        let shift = from.saturating_sub(to).unsigned_abs();
        let scaled = 10i128.checked_pow(shift).and_then(|factor| mantissa.checked_mul(factor));
        let capped = if mantissa >= 0 { i128::MAX } else { i128::MIN };
        return (scaled.unwrap_or(if mantissa == 0 { 0 } else { capped }), true);
    }
    match 10i128.checked_pow(to.saturating_sub(from).unsigned_abs()) {
        Some(divisor) => {
            let (quotient, remainder) = (mantissa / divisor, mantissa % divisor);
            (quotient + remainder.signum(), remainder == 0)
        }
        None => (mantissa.signum(), mantissa == 0),
    }
}

/// Both in the finer of their units. Far apart, the coarser is capped.
fn align(a: &Written, b: &Written) -> (i128, i128, i32) {
    let scale = a.scale.min(b.scale);
    (rescale(a.mantissa, a.scale, scale).0, rescale(b.mantissa, b.scale, scale).0, scale)
}

/// The parts of a quantity's text.
struct Parts<'a> {
    positive: bool,
    numerator: &'a str,
    denominator: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let (positive, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (false, &text[1..]),
        Some(b'+') => (true, &text[1..]),
        _ => (true, text),
    };
    let rest = unsigned.trim_start_matches('0');
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (numerator, rest) = rest.split_at(end);
    let (denominator, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let tail = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if tail.chars().any(|c| !c.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok(Parts { positive, numerator, denominator, suffix })
}

impl FromStr for Written {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = split(text)?;
        let (format, exponent, factor) = interpret(parts.suffix)?;
        let digits = [if parts.numerator.is_empty() { "0" } else { parts.numerator }, parts.denominator].concat();
        let fraction = i32::try_from(parts.denominator.len()).map_err(|_| QuantityError::Numeric)?;
        let (mut mantissa, mut scale) = read_digits(&digits)?;
        scale = scale.saturating_sub(fraction).saturating_add(exponent);
        let small = keeps_text(format, scale, &digits, &parts, mantissa, factor);
        mantissa = mantissa.checked_mul(factor).unwrap_or(i128::MAX);
        if scale < NANO {
            mantissa = rescale(mantissa, scale, NANO).0;
            scale = NANO;
        }
        let mut format = format;
        if format == Format::BinarySi {
            if rescale(mantissa, scale, 0).0 > BINARY_CAP {
                (mantissa, scale) = (BINARY_CAP, 0);
            }
            let one = 10i128.pow(scale.min(0).unsigned_abs());
            if mantissa > 0 && scale < 0 && mantissa < one {
                format = Format::DecimalSi;
            }
        }
        if !parts.positive {
            mantissa = -mantissa;
        }
        Ok(Self { mantissa, scale, format, text: small.then(|| text.into()) })
    }
}

/// Upstream keeps the text of numbers it reads on its fast path and takes to
/// be canonical already (`ParseQuantity`).
fn keeps_text(format: Format, scale: i32, digits: &str, parts: &Parts<'_>, value: i128, factor: i128) -> bool {
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if scale < NANO || value == 0 {
        return false;
    }
    match format {
        Format::BinarySi => {
            let exponent = 127 - factor.leading_zeros() as i32;
            let precision = 15 - length - (exponent * 3 / 10) - 1;
            parts.denominator.is_empty() && precision >= 0 && value & 7 != 0
        }
        _ => length <= 18 && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0'),
    }
}

fn read_digits(digits: &str) -> Result<(i128, i32), QuantityError> {
    let kept = &digits[..digits.len().min(DIGITS)];
    let dropped = &digits[kept.len()..];
    let mantissa: i128 = kept.parse().map_err(|_| QuantityError::Numeric)?;
    let up = i128::from(dropped.bytes().any(|digit| digit != b'0'));
    let scale = i32::try_from(dropped.len()).map_err(|_| QuantityError::Numeric)?;
    Ok((mantissa + up, scale))
}

/// Format, decimal exponent and binary factor of a suffix.
fn interpret(suffix: &str) -> Result<(Format, i32, i128), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Ok((Format::DecimalSi, *exponent, 1));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(known, _)| *known == suffix) {
        return Ok((Format::BinarySi, 0, 1i128 << exponent));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty());
    let exponent: i64 = exponent.and_then(|digits| digits.parse().ok()).ok_or(QuantityError::Suffix)?;
    Ok((Format::DecimalExponent, exponent as i32, 1))
}

impl fmt::Display for Written {
    /// The canonical form: no fraction, no precision lost, the suffix as large as possible.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi {
            let (whole, exact) = rescale(self.mantissa, self.scale, 0);
            if exact && whole.unsigned_abs() >= 1024 {
                return binary(whole, f);
            }
        }
        decimal(self, f)
    }
}

fn binary(mut whole: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut step = 0;
    while step < BINARY.len() && whole % 1024 == 0 {
        whole /= 1024;
        step += 1;
    }
    let suffix = if step == 0 { "" } else { BINARY[step - 1].0 };
    write!(f, "{whole}{suffix}")
}

fn decimal(quantity: &Written, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut mantissa, mut scale) = (quantity.mantissa, quantity.scale);
    while mantissa % 10 == 0 {
        mantissa /= 10;
        scale += 1;
    }
    let down = scale.rem_euclid(3);
    mantissa = mantissa.saturating_mul(10i128.pow(down.unsigned_abs()));
    scale -= down;
    let suffix = DECIMAL.iter().find(|(_, exponent)| *exponent == scale);
    match suffix {
        Some((suffix, _)) if quantity.format != Format::DecimalExponent => write!(f, "{mantissa}{suffix}"),
        _ if scale == 0 => write!(f, "{mantissa}"),
        _ => write!(f, "{mantissa}e{scale}"),
    }
}

impl Default for Written {
    fn default() -> Self {
        Self::ZERO
    }
}

impl PartialEq for Written {
    /// Equal amounts, however they are written.
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Written {}

impl PartialOrd for Written {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Written {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b, _) = align(self, other);
        a.cmp(&b)
    }
}

impl Add<&Written> for &Written {
    type Output = Written;

    /// The sum; a zero takes the other's format.
    fn add(self, other: &Written) -> Written {
        self.combine(other, i128::saturating_add)
    }
}

impl Sub<&Written> for &Written {
    type Output = Written;

    /// The difference; a zero takes the other's format.
    fn sub(self, other: &Written) -> Written {
        self.combine(other, i128::saturating_sub)
    }
}

impl AddAssign<&Written> for Written {
    fn add_assign(&mut self, other: &Written) {
        *self = &*self + other;
    }
}

impl SubAssign<&Written> for Written {
    fn sub_assign(&mut self, other: &Written) {
        *self = &*self - other;
    }
}

impl Neg for Written {
    type Output = Written;

    fn neg(self) -> Written {
        Self { mantissa: self.mantissa.saturating_neg(), text: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Written::canonical(text).unwrap()
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        for (text, expected) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000m", "1"),
            ("1000k", "1M"),
            ("100m", "100m"),
            ("1025Ki", "1025Ki"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("12e6", "12e6"),
            ("12000e3", "12e6"),
            ("1e3", "1e3"),
            ("+5", "+5"),
            ("05", "05"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("100000000000000000000", "100E"),
            ("-1.5", "-1500m"),
            ("16Ei", "9223372036854775807"),
            ("1E", "1E"),
            ("2000000", "2M"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_quantity_is_refused_in_upstreams_words() {
        assert_eq!("".parse::<Written>(), Err(QuantityError::Format));
        assert_eq!("abc".parse::<Written>(), Err(QuantityError::Format));
        assert_eq!("1.2.3".parse::<Written>(), Err(QuantityError::Format));
        assert_eq!("1KiB".parse::<Written>(), Err(QuantityError::Format));
        assert_eq!("1mm".parse::<Written>(), Err(QuantityError::Suffix));
        assert_eq!("1e".parse::<Written>(), Err(QuantityError::Suffix));
    }

    #[test]
    fn values_round_away_from_zero() {
        let quantity: Written = "1500m".parse().unwrap();
        assert_eq!((quantity.value(), quantity.milli_value()), (2, 1500));
        let quantity: Written = "-1500m".parse().unwrap();
        assert_eq!(quantity.value(), -2);
        assert_eq!("1u".parse::<Written>().unwrap().milli_value(), 1);
    }

    #[test]
    fn sums_are_exact_and_compare_across_units() {
        let a: Written = "1Gi".parse().unwrap();
        let b: Written = "500m".parse().unwrap();
        assert_eq!((&a + &b).to_string(), "1073741824500m");
        assert_eq!((&Written::ZERO + &a).to_string(), "1Gi");
        assert!(b < a);
        assert_eq!("1024Ki".parse::<Written>().unwrap(), "1Mi".parse().unwrap());
        assert_eq!((&a - &a).to_string(), "0");
        assert_eq!("1e1000".parse::<Written>().unwrap().value(), i64::MAX);
    }
}
