//! Amounts of resources, exact enough to be compared.

use serde_json::Value;

/// An amount in thousand-millionths, as upstream's smallest unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(i128);

impl Amount {
    pub(crate) fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub(crate) fn is_whole(self) -> bool {
        self.0 % 1_000_000_000 == 0
    }
}

/// A quantity in a document: a string or a number.
pub(crate) fn parse_value(value: &Value) -> Option<Amount> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => parse(&number.to_string()),
        _ => None,
    }
}

/// `100m`, `1.5Gi`, `2e3`. Saturates far above anything a machine has.
pub(crate) fn parse(text: &str) -> Option<Amount> {
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty())
        || !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let (factor, exponent): (i128, i32) = match suffix {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let power = suffix.strip_prefix(['e', 'E'])?;
            (1, power.parse().ok().filter(|p: &i32| p.abs() <= 30)?)
        }
    };
    let mut mantissa: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let mut amount = mantissa.checked_mul(factor)?;
    let shift = 9 + exponent - i32::try_from(fraction.len()).ok()?;
    if shift >= 0 {
        amount = amount.checked_mul(10_i128.checked_pow(shift.unsigned_abs())?)?;
    } else {
        // Upstream rounds up what is finer than its smallest unit.
        let step = 10_i128.checked_pow(shift.unsigned_abs())?;
        amount = amount.checked_add(step - 1)? / step;
    }
    Some(Amount(if negative { -amount } else { amount }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_amounts_are_equal_however_they_are_written() {
        for (a, b) in [
            ("1", "1000m"),
            ("0.5", "500m"),
            ("1Ki", "1024"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("2E", "2000P"),
            ("0.1n", "1n"),
        ] {
            assert_eq!(parse(a), parse(b), "{a} = {b}");
            assert!(parse(a).is_some());
        }
        assert!(parse("100m") < parse("1") && parse("1G") < parse("1Gi") && parse("-1") < parse("0"));
        for bad in ["", "x", "1x", "1.2.3", "--1", "1e", "Ki", ".", "1e99"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
