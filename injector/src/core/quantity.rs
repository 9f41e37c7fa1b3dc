//! Kubernetes quantities: parsing and the canonical text upstream emits.
//!
//! Mirrors `resource.ParseQuantity` and its JSON form, including its habit of keeping the
//! given text when that is already canonical. Numbers beyond 19 significant digits are
//! refused here; upstream carries them in arbitrary precision.

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number followed by a suffix.
    #[error("is not a number with an optional suffix such as 100m, 0.5 or 64Mi")]
    Format,
    /// The suffix is none of Kubernetes' suffixes.
    #[error("has an unknown suffix (allowed: n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei)")]
    Suffix,
    /// More digits than any real resource needs.
    #[error("has too many digits")]
    TooLarge,
}

/// The smallest power of ten a quantity can carry.
const NANO: i32 = -9;
/// More digits than this could overflow once multiplied by 2^60.
const MAX_DIGITS: usize = 19;
/// Decimal exponents past this are not worth an exact answer.
const MAX_EXPONENT: i32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    DecimalSi,
    DecimalExponent,
    BinarySi,
}

/// A number split the way Kubernetes' scanner does it.
struct Scanned<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
}

/// The canonical text of the quantity in `text`.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let scanned = scan(text)?;
    let (format, exponent) = interpret(scanned.suffix)?;
    let digits = format!("{}{}", scanned.num, scanned.denom);
    if digits.len() > MAX_DIGITS || exponent.abs() > MAX_EXPONENT {
        return Err(QuantityError::TooLarge);
    }
    let value: i128 = digits.parse().map_err(|_| QuantityError::Format)?;
    let places = i32::try_from(scanned.denom.len()).map_err(|_| QuantityError::TooLarge)?;
    if keeps_its_text(format, exponent, &scanned, &digits, value) {
        return Ok(text.to_owned());
    }
    let (mantissa, scale) = match format {
        Format::BinarySi => (value << exponent, -places),
        Format::DecimalSi | Format::DecimalExponent => (value, exponent - places),
    };
    let (mantissa, scale) = round_up_to_nano(mantissa, scale);
    let sign = if scanned.negative { "-" } else { "" };
    if mantissa == 0 {
        return Ok("0".to_owned());
    }
    let unsigned = match (format, whole(mantissa, scale)) {
        (Format::BinarySi, Some(whole)) if whole >= 1024 => print_binary(whole.min(i64::MAX.into())),
        (Format::BinarySi, _) => print_decimal(mantissa, scale, Format::DecimalSi)?,
        (format, _) => print_decimal(mantissa, scale, format)?,
    };
    Ok(format!("{sign}{unsigned}"))
}

fn scan(text: &str) -> Result<Scanned<'_>, QuantityError> {
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let rest = rest.trim_start_matches('0');
    let (num, rest) = split_digits(rest);
    let (denom, suffix) = match rest.strip_prefix('.') {
        Some(fraction) => split_digits(fraction),
        None => ("", rest),
    };
    let letters_end = suffix.find(|c: char| !"eEinumkKMGTP".contains(c)).unwrap_or(suffix.len());
    let exponent = &suffix[letters_end..];
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if !exponent.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let num = if num.is_empty() { "0" } else { num };
    Ok(Scanned { negative, num, denom, suffix })
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn interpret(suffix: &str) -> Result<(Format, i32), QuantityError> {
    let decimal = |exponent| Ok((Format::DecimalSi, exponent));
    let binary = |exponent| Ok((Format::BinarySi, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => suffix
            .strip_prefix(['e', 'E'])
            .and_then(|exponent| exponent.parse().ok())
            .map(|exponent| (Format::DecimalExponent, exponent))
            .ok_or(QuantityError::Suffix),
    }
}

/// Upstream's fast path: small numbers already in canonical form keep the text given.
fn keeps_its_text(format: Format, exponent: i32, scanned: &Scanned<'_>, digits: &str, value: i128) -> bool {
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let places = i32::try_from(scanned.denom.len()).unwrap_or(i32::MAX);
    match format {
        Format::BinarySi => {
            let precision = 15 - length - exponent * 3 / 10 - 1;
            scanned.denom.is_empty() && precision >= 0 && value & 0x07 != 0
        }
        Format::DecimalSi | Format::DecimalExponent => {
            let scale = exponent - places;
            length <= 18 && scale >= NANO && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
        }
    }
}

/// Rounds away from zero what is finer than a nano.
fn round_up_to_nano(mut mantissa: i128, mut scale: i32) -> (i128, i32) {
    while scale < NANO && mantissa > 1 {
        mantissa = mantissa / 10 + i128::from(mantissa % 10 != 0);
        scale += 1;
    }
    (mantissa, scale.max(NANO))
}

/// The value if it is a whole number.
fn whole(mantissa: i128, scale: i32) -> Option<i128> {
    let power = 10i128.checked_pow(scale.unsigned_abs())?;
    if scale >= 0 { mantissa.checked_mul(power) } else { (mantissa % power == 0).then(|| mantissa / power) }
}

fn print_binary(mut value: i128) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut power = 0;
    while value % 1024 == 0 && power + 1 < SUFFIXES.len() {
        value /= 1024;
        power += 1;
    }
    format!("{value}{}", SUFFIXES[power])
}

fn print_decimal(mut mantissa: i128, mut exponent: i32, format: Format) -> Result<String, QuantityError> {
    while mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    while exponent.rem_euclid(3) != 0 {
        mantissa = mantissa.checked_mul(10).ok_or(QuantityError::TooLarge)?;
        exponent -= 1;
    }
    let suffix = match (format, exponent) {
        (_, 0) => String::new(),
        (Format::DecimalExponent, exponent) => format!("e{exponent}"),
        (_, -9) => "n".to_owned(),
        (_, -6) => "u".to_owned(),
        (_, -3) => "m".to_owned(),
        (_, 3) => "k".to_owned(),
        (_, 6) => "M".to_owned(),
        (_, 9) => "G".to_owned(),
        (_, 12) => "T".to_owned(),
        (_, 15) => "P".to_owned(),
        (_, 18) => "E".to_owned(),
        _ => return Err(QuantityError::TooLarge),
    };
    Ok(format!("{mantissa}{suffix}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_printed_the_way_upstream_prints_them() {
        for (given, wanted) in [
            ("100m", "100m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1", "1"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1024Mi", "1Gi"),
            ("64Mi", "64Mi"),
            ("100Mi", "100Mi"),
            ("1.5Gi", "1536Mi"),
            ("1.1Ki", "1126400m"),
            ("0.5Ki", "512"),
            ("0", "0"),
            ("0Mi", "0"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("12E2", "1200"),
            ("1E", "1E"),
            ("0.1n", "1n"),
            ("1.500", "1.500"),
            ("0100m", "0100m"),
            ("-1.5", "-1500m"),
            ("+5", "+5"),
            ("m", "0"),
            ("-", "0"),
        ] {
            assert_eq!(canonical(given).as_deref(), Ok(wanted), "{given:?}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        assert_eq!(canonical(""), Err(QuantityError::Format));
        for bad in ["abc", "1 Gi", " 1", "1..2", "1,5", "5x", "é"] {
            assert_eq!(canonical(bad), Err(QuantityError::Format), "{bad:?}");
        }
        for bad in ["5mi", "5K", "1e", "1Mii", "1e+"] {
            assert_eq!(canonical(bad), Err(QuantityError::Suffix), "{bad:?}");
        }
        assert_eq!(canonical("99999999999999999999"), Err(QuantityError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,30}") {
            let _ = canonical(&text);
        }

        #[test]
        fn number_like_text_is_answered_without_a_panic(text in "[+-]?[0-9]{0,22}\\.?[0-9]{0,12}[eEinumkKMGTP]{0,2}[+-]?[0-9]{0,4}") {
            if let Ok(printed) = canonical(&text) {
                match canonical(&printed) {
                    Ok(_) | Err(QuantityError::TooLarge) => {}
                    Err(error) => prop_assert!(false, "{text:?} gave {printed:?}, which {error}"),
                }
            }
        }
    }
}
