//! Kubernetes' quantities: `100m`, `1.5Gi`, `12e6`.
//!
//! A decimal number with a suffix: binary (`Ki` … `Ei`), decimal (`n u m`, none, `k M G T P E`) or an exponent (`e6`, `E6`).
//! Kept as a whole number of 10⁻⁹: exact, for finer fractions are rounded up, as Kubernetes does
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).

use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

/// An amount, in units of 10⁻⁹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity(i128);

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Malformed,
    /// A number with a suffix that isn't one.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// More than fits.
    #[error("the number is too large")]
    TooLarge,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity(0);

    /// In whole units (bytes, cores), rounded up.
    pub fn value(self) -> i64 {
        self.in_units_of(NANO)
    }

    /// In thousandths (millicores), rounded up.
    pub fn milli_value(self) -> i64 {
        self.in_units_of(NANO / 1000)
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.0 % NANO == 0
    }

    fn in_units_of(self, nanos: i128) -> i64 {
        let rounded = self.0.div_euclid(nanos) + i128::from(self.0.rem_euclid(nanos) != 0);
        rounded.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        Quantity(self.0.saturating_add(other.0))
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Quantity, Error> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(Error::Malformed);
        }
        let (multiplier, exponent) = scale(suffix)?;
        // digits · 10^(−fraction's length) · multiplier · 10^exponent, in nanos
        let mut digits: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            digits = digits
                .checked_mul(10)
                .and_then(|digits| digits.checked_add(i128::from(digit - b'0')))
                .ok_or(Error::TooLarge)?;
        }
        let scaled = digits.checked_mul(multiplier).ok_or(Error::TooLarge)?;
        let power = exponent + 9 - i32::try_from(fraction.len()).map_err(|_| Error::TooLarge)?;
        let nanos = match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(ten) if power >= 0 => scaled.checked_mul(ten).ok_or(Error::TooLarge)?,
            Some(ten) => scaled / ten + i128::from(scaled % ten != 0),
            None if power < 0 || scaled == 0 => i128::from(scaled != 0),
            None => return Err(Error::TooLarge),
        };
        Ok(Quantity(if negative { -nanos } else { nanos }))
    }
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Result<(i128, i32), Error> {
    Ok(match suffix {
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
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
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Error::Suffix);
            }
            let exponent: i32 = exponent.parse().map_err(|_| Error::TooLarge)?;
            // Beyond these it is zero or too large anyway; within them sums of exponents do not overflow.
            (1, exponent.clamp(-1000, 1000))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_is_exact() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("+1", 1000),
            ("-2", -2000),
            (".5", 500),
            ("1.", 1000),
            ("100m", 100),
            ("0.1", 100),
            ("1.5k", 1_500_000),
            ("12e6", 12_000_000_000),
            ("1E3", 1_000_000),
            ("5e-3", 5),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1500000u", 1500),
            ("1n", 1),
            ("1e-99", 1),
        ] {
            let quantity: Quantity = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(quantity.milli_value(), milli, "{text}");
        }
        assert_eq!("1n".parse::<Quantity>().unwrap().value(), 1, "rounded up");
        assert_eq!("-1n".parse::<Quantity>().unwrap().value(), 0, "up is towards zero here");
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse().unwrap());
        assert_eq!("1000m".parse::<Quantity>(), "1".parse());
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", Error::Malformed),
            (".", Error::Malformed),
            ("one", Error::Malformed),
            ("1.2.3", Error::Malformed),
            ("1 Gi", Error::Suffix),
            ("1GB", Error::Suffix),
            ("1gi", Error::Suffix),
            ("1e", Error::Suffix),
            ("1e+", Error::Suffix),
            ("--1", Error::Malformed),
            ("1e40", Error::TooLarge),
            ("99999999999999999999999999999999999999999", Error::TooLarge),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,12}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn a_whole_number_is_itself(n in i32::MIN..i32::MAX) {
            proptest::prop_assert_eq!(n.to_string().parse::<Quantity>().map(Quantity::value), Ok(i64::from(n)));
        }
    }
}
