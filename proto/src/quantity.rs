//! Resource quantities such as `100m`, `1Gi` and `1e3`, with exact arithmetic.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANO: i128 = 1_000_000_000;
/// No quantity is larger than this many whole units, in either direction.
const MAX: i128 = i64::MAX as i128 * NANO;

/// How a quantity was written, and so how it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// A fixed-point number with nine decimals. Finer values are rounded away from zero, larger ones than 2^63-1 are
/// capped, as the Kubernetes API does it. Two quantities are equal when their values are, however they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::DecimalSi };

    /// Whole units, printed with decimal suffixes.
    pub fn new(units: i64) -> Quantity {
        Quantity { nano: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// Thousandths, printed with decimal suffixes.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nano: clamp(i128::from(milli) * 1_000_000), format: Format::DecimalSi }
    }

    /// Whole units, printed with binary suffixes.
    pub fn bytes(units: i64) -> Quantity {
        Quantity { nano: i128::from(units) * NANO, format: Format::BinarySi }
    }

    /// Parses any of the three formats.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        text.parse()
    }

    /// Whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        saturate(divide_away(self.nano, NANO))
    }

    /// Thousandths, rounded away from zero; the largest `i64` where they do not fit.
    pub fn milli(self) -> i64 {
        saturate(divide_away(self.nano, 1_000_000))
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i32 {
        self.nano.signum() as i32
    }

    pub fn format(self) -> Format {
        self.format
    }

    /// A zero takes over the other's format in sums, as upstream's does.
    fn joined_format(self, other: Quantity) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }
}

fn clamp(nano: i128) -> i128 {
    nano.clamp(-MAX, MAX)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Division that rounds away from zero.
fn divide_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

/// What a suffix multiplies by: a power of ten or of two.
enum Scale {
    Ten(i32),
    Two(u32),
}

fn interpret_suffix(suffix: &str) -> Option<(Scale, Format)> {
    let (scale, format) = match suffix {
        "n" => (Scale::Ten(-9), Format::DecimalSi),
        "u" => (Scale::Ten(-6), Format::DecimalSi),
        "m" => (Scale::Ten(-3), Format::DecimalSi),
        "" => (Scale::Ten(0), Format::DecimalSi),
        "k" => (Scale::Ten(3), Format::DecimalSi),
        "M" => (Scale::Ten(6), Format::DecimalSi),
        "G" => (Scale::Ten(9), Format::DecimalSi),
        "T" => (Scale::Ten(12), Format::DecimalSi),
        "P" => (Scale::Ten(15), Format::DecimalSi),
        "E" => (Scale::Ten(18), Format::DecimalSi),
        "Ki" => (Scale::Two(10), Format::BinarySi),
        "Mi" => (Scale::Two(20), Format::BinarySi),
        "Gi" => (Scale::Two(30), Format::BinarySi),
        "Ti" => (Scale::Two(40), Format::BinarySi),
        "Pi" => (Scale::Two(50), Format::BinarySi),
        "Ei" => (Scale::Two(60), Format::BinarySi),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            (Scale::Ten(exponent.parse().ok()?), Format::DecimalExponent)
        }
    };
    Some((scale, format))
}

fn significant(digits: &str) -> &str {
    digits.trim_start_matches('0')
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        if number.is_empty() {
            return Err(QuantityError::Format);
        }
        let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number);
        }
        let (scale, format) = interpret_suffix(suffix).ok_or(QuantityError::Suffix)?;
        let nano = match scale {
            Scale::Ten(exponent) => decimal_nano(whole, fraction, exponent),
            Scale::Two(power) => binary_nano(whole, fraction, power),
        };
        // Less than one byte is no binary amount: it prints as a decimal fraction.
        let format =
            if format == Format::BinarySi && nano > 0 && nano < NANO { Format::DecimalSi } else { format };
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }
}

/// `whole.fraction × 10^exponent` in nano units.
fn decimal_nano(whole: &str, fraction: &str, exponent: i32) -> i128 {
    // All digits as one integer, whose unit is 10^shift nano units.
    let digits = format!("{whole}{fraction}");
    let shift = i64::from(exponent) + 9 - fraction.len() as i64;
    let digits = significant(&digits);
    if digits.is_empty() {
        return 0;
    }
    // Positions of the integer part, seen in nano units.
    let width = digits.len() as i64 + shift;
    if width > 30 {
        return MAX;
    }
    if shift >= 0 {
        let value: i128 = digits.parse().unwrap_or(MAX);
        return clamp(value.saturating_mul(10i128.pow(shift as u32)));
    }
    let keep = width.max(0) as usize;
    let (kept, dropped) = digits.split_at(keep);
    let value: i128 = if kept.is_empty() { 0 } else { kept.parse().unwrap_or(MAX) };
    let round_up = dropped.bytes().any(|b| b != b'0');
    clamp(value + i128::from(round_up))
}

/// `whole.fraction × 2^power` in nano units.
fn binary_nano(whole: &str, fraction: &str, power: u32) -> i128 {
    let whole = significant(whole);
    if whole.len() > 19 {
        return MAX;
    }
    let factor = 1i128 << power;
    let units: i128 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(MAX) };
    if units > MAX / NANO / factor {
        return MAX;
    }
    // 18 decimals are exact for every suffix within the cap's precision; what is beyond only rounds up.
    let cut = fraction.len().min(18);
    let (kept, dropped) = fraction.split_at(cut);
    let scale = 10i128.pow(cut as u32);
    let part: i128 = if kept.is_empty() { 0 } else { kept.parse().unwrap_or(0) };
    let extra = dropped.bytes().any(|b| b != b'0');
    // part / scale × factor × NANO, in steps that stay within 128 bits.
    let product = part * factor;
    let nano_part = product / scale * NANO + divide_away(product % scale * NANO, scale);
    clamp(units * factor * NANO + nano_part + i128::from(extra))
}

/// The canonical form: no fraction, the largest suffix that keeps the value exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nano.abs() >= 1024 * NANO {
            let mut units = divide_away(self.nano, NANO);
            let mut suffix = 0;
            while units % 1024 == 0 && suffix < 6 {
                units /= 1024;
                suffix += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][suffix]);
        }
        let mut value = self.nano;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        write!(f, "{value}{}", suffix[((exponent + 9) / 3) as usize])
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}

/// Sums stop at the cap instead of overflowing.
impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        Quantity { nano: clamp(self.nano + other.nano), format: self.joined_format(other) }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        Quantity { nano: clamp(self.nano - other.nano), format: self.joined_format(other) }
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nano: -self.nano, ..self }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(quantities: I) -> Quantity {
        quantities.fold(Quantity::ZERO, Add::add)
    }
}

impl TryFrom<&ApiQuantity> for Quantity {
    type Error = QuantityError;

    fn try_from(quantity: &ApiQuantity) -> Result<Quantity, QuantityError> {
        quantity.0.parse()
    }
}

impl From<Quantity> for ApiQuantity {
    fn from(quantity: Quantity) -> ApiQuantity {
        ApiQuantity(quantity.to_string())
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From a text or a bare number, as the API accepts both.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(serde_json::Number),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("100m", "100m"),
            ("1000", "1k"),
            ("1234567", "1234567"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1127"),
            ("100Mi", "100Mi"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e1", "120"),
            ("1E", "1E"),
            ("1.5e-3", "1500e-6"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("1n", "1n"),
            ("1001u", "1001u"),
            ("0.5Mi", "512Ki"),
            ("0.0001Ki", "102400u"),
            ("100e3Ki", "!"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("1e100", "!max"),
            ("1e-100", "1e-9"),
            ("-1Gi", "-1Gi"),
        ] {
            match canonical {
                "!" => assert!(text.parse::<Quantity>().is_err(), "{text}"),
                "!max" => assert_eq!(parse(text).value(), i64::MAX),
                _ => assert_eq!(parse(text).to_string(), canonical, "{text}"),
            }
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_the_reason() {
        use QuantityError::{Format, Number, Suffix};
        for (text, error) in [
            ("", Format),
            ("-", Format),
            ("abc", Format),
            (" 1", Format),
            ("1 ", Format),
            ("1.1.M", Format),
            ("1+1.0M", Format),
            ("1ä", Format),
            ("0.1mi", Suffix),
            ("0.1am", Format),
            (".5i", Suffix),
            ("1i", Suffix),
            ("-3.01e-", Suffix),
            ("1e", Suffix),
            ("1K", Suffix),
            (".", Number),
            ("1MM", Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn whole_and_milli_values_round_away_from_zero() {
        for (text, value, milli) in [
            ("100m", 1, 100),
            ("1.5", 2, 1500),
            ("-1.5", -2, -1500),
            ("1u", 1, 1),
            ("2Gi", 2147483648, 2147483648000),
        ] {
            assert_eq!((parse(text).value(), parse(text).milli()), (value, milli), "{text}");
        }
        assert_eq!(parse("1E").milli(), i64::MAX);
    }

    #[test]
    fn a_sum_keeps_the_format_of_its_first_part() {
        assert_eq!((parse("1Gi") + parse("1024")).to_string(), "1048577Ki");
        assert_eq!((parse("0") + parse("1Gi")).to_string(), "1Gi");
        assert_eq!((parse("1") - parse("250m")).to_string(), "750m");
        assert_eq!((Quantity::new(i64::MAX) + parse("1")).value(), i64::MAX);
        assert_eq!(["100m", "200m"].map(parse).into_iter().sum::<Quantity>().to_string(), "300m");
    }

    #[test]
    fn json_may_hold_a_text_or_a_number() {
        let read = |json| serde_json::from_str::<Quantity>(json).map(|q| q.to_string());
        assert_eq!(read("\"1Gi\"").unwrap(), "1Gi");
        assert_eq!(read("5").unwrap(), "5");
        assert_eq!(read("0.5").unwrap(), "500m");
        assert!(read("\"x\"").is_err());
    }

    proptest! {
        #[test]
        fn printing_and_parsing_keeps_the_value(nano in -MAX..=MAX, format in 0..3) {
            let format = [Format::DecimalSi, Format::DecimalExponent, Format::BinarySi][format as usize];
            // Large binary amounts have no fraction in print.
            let nano = if format == Format::BinarySi { nano / NANO * NANO } else { nano };
            let quantity = Quantity { nano, format };
            prop_assert_eq!(parse(&quantity.to_string()), quantity);
        }

        #[test]
        fn the_canonical_form_keeps_its_value(text in "[+-]?[0-9]{1,12}(\\.[0-9]{1,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]|e-[0-9])?") {
            let once = parse(&parse(&text).to_string());
            prop_assert_eq!(parse(&once.to_string()), once);
        }

        #[test]
        fn order_is_the_order_of_values(a in -10_000i64..10_000, b in -10_000i64..10_000) {
            prop_assert_eq!(parse(&format!("{a}m")).cmp(&parse(&format!("{b}m"))), a.cmp(&b));
        }

        #[test]
        fn adding_and_taking_away_gives_the_same(a in any::<i32>(), b in any::<i32>()) {
            let (a, b) = (Quantity::from_milli(i64::from(a)), Quantity::from_milli(i64::from(b)));
            prop_assert_eq!(a + b - b, a);
        }

        #[test]
        fn no_input_panics(text in ".*|[0-9.eE+-]{0,60}(Ki|Ei|E)?") {
            let _ = text.parse::<Quantity>();
        }
    }
}
