//! Amounts in the notation of Kubernetes.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>:
//! digits, perhaps a fraction, then a decimal or binary unit or an exponent.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An amount that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount: digits and a unit such as Gi, M or m")]
pub struct QuantityError(pub String);

/// The amount in thousandths, rounded up.
///
/// # Errors
/// If it cannot be read, is negative, or is more than `u128` holds.
pub fn millis(quantity: &Quantity) -> Result<u128, QuantityError> {
    parse(&quantity.0).ok_or_else(|| QuantityError(quantity.0.clone()))
}

/// The amount in whole units, rounded up.
///
/// # Errors
/// If it cannot be read, is negative, or is more than `u64` holds.
pub fn whole(quantity: &Quantity) -> Result<u64, QuantityError> {
    let units = millis(quantity)?.div_ceil(1000);
    u64::try_from(units).map_err(|_| QuantityError(quantity.0.clone()))
}

/// So many bytes, in the largest binary unit that has no fraction.
pub fn bytes(bytes: u64) -> Quantity {
    for (shift, unit) in [(30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return Quantity(format!("{}{unit}", bytes >> shift));
        }
    }
    Quantity(bytes.to_string())
}

/// The longest amount that is read: longer ones have no meaning.
const LONGEST: usize = 32;

fn parse(text: &str) -> Option<u128> {
    if text.len() > LONGEST {
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') {
        return None;
    }
    // Digits without the point, and by which power of ten they are too large.
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let too_large = u32::try_from(fraction.len()).ok()?;
    let (factor, exponent): (u128, i32) = match unit {
        "" => (1, 0),
        "m" => (1, -3),
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
        exponent => (1, exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // In thousandths, so three powers of ten more.
    let power = exponent.checked_add(3)?.checked_sub_unsigned(too_large)?;
    let product = digits.checked_mul(factor)?;
    let scale = 10_u128.checked_pow(power.unsigned_abs())?;
    if power >= 0 {
        product.checked_mul(scale)
    } else {
        Some(product.div_ceil(scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        let table = [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            ("0.1m", 1),
            ("1e3", 1_000_000),
            ("5E-1", 500),
            ("2Ki", 2_048_000),
            ("1.5Gi", 1_610_612_736_000),
            ("3k", 3_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
        ];
        for (text, expected) in table {
            assert_eq!(millis(&Quantity(text.into())), Ok(expected), "{text}");
        }
        assert_eq!(whole(&Quantity("1500m".into())), Ok(2));
    }

    #[test]
    fn what_is_no_amount_is_told() {
        let long = "9".repeat(LONGEST + 1);
        let table = [
            "",
            "Gi",
            "-1",
            "1.2.3",
            "1 Gi",
            "1gi",
            "1e",
            "1e99999999999",
            &long,
        ];
        for text in table {
            assert!(millis(&Quantity(text.into())).is_err(), "{text}");
        }
        assert!(millis(&Quantity("1e30".into())).is_ok());
        assert!(whole(&Quantity("1e30".into())).is_err());
        assert!(millis(&Quantity("1e40".into())).is_err());
    }

    #[test]
    fn bytes_are_written_shortly_and_exactly() {
        for (count, text) in [
            (0, "0"),
            (1000, "1000"),
            (1536 << 20, "1536Mi"),
            (2 << 30, "2Gi"),
        ] {
            assert_eq!(bytes(count).0, text);
            assert_eq!(whole(&bytes(count)), Ok(count));
        }
    }
}
