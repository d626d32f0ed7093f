//! Fields of a Kubernetes object, read leniently: a field of a wrong type is a field that is not there.
//!
//! Objects come from YAML that people cut and edit, from several versions of Kubernetes and KubeVirt: one wrong field must not cost
//! the object. Source: Kubernetes `apimachinery` (metav1.Time, resource.Quantity).

use std::collections::BTreeMap;

use serde_json::Value;

const NOTHING: Value = Value::Null;

/// What stands at a path of keys; `null` if nothing does.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().try_fold(value, |value, key| value.get(key)).unwrap_or(&NOTHING)
}

/// A text that is not empty; numbers and truth values as they are written (YAML without quotes).
pub(crate) fn text(value: &Value, path: &[&str]) -> Option<String> {
    as_text(at(value, path))
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is_true) => Some(is_true.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A truth value, in quotes or not.
pub(crate) fn boolean(value: &Value, path: &[&str]) -> Option<bool> {
    match at(value, path) {
        Value::Bool(is_true) => Some(*is_true),
        Value::String(text) => text.to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

/// A whole number, in quotes or not.
pub(crate) fn integer(value: &Value, path: &[&str]) -> Option<i64> {
    match at(value, path) {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A moment, Unix microseconds. Go's zero time is none.
pub(crate) fn time(value: &Value, path: &[&str]) -> Option<i64> {
    parse_time(at(value, path).as_str()?)
}

/// RFC 3339 as Kubernetes writes it, and with a blank for the `T`.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let usec = text.trim().parse::<jiff::Timestamp>().ok()?.as_microsecond();
    (usec > 0).then_some(usec)
}

/// Elements of a list; none if it is no list.
pub(crate) fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// Texts of a list.
pub(crate) fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    list(value, path).iter().filter_map(as_text).collect()
}

/// A map of texts: labels, selectors, quantities. Texts longer than a label or an annotation of ours can be are left out.
pub(crate) fn map(value: &Value, path: &[&str]) -> BTreeMap<String, String> {
    const MAX_TEXT_BYTES: usize = 1024;
    let entries = at(value, path).as_object().into_iter().flatten();
    entries
        .filter_map(|(key, value)| {
            let text = value.as_str().map(ToOwned::to_owned).or_else(|| as_text(value))?;
            (text.len() <= MAX_TEXT_BYTES).then(|| (key.clone(), text))
        })
        .collect()
}

/// A quantity in its base unit (bytes, cores, pieces), rounded down; `None` if it is none or does not fit.
pub(crate) fn quantity(text: &str) -> Option<i64> {
    scaled_quantity(text, 1)
}

/// A quantity in thousandths of its base unit, as [`quantity`].
pub(crate) fn milli_quantity(text: &str) -> Option<i64> {
    scaled_quantity(text, 1_000)
}

fn scaled_quantity(text: &str, by: i128) -> Option<i64> {
    let text = text.trim();
    let n_mantissa = text.bytes().take_while(|c| c.is_ascii_digit() || *c == b'.').count();
    let (mantissa, suffix) = text.split_at(n_mantissa);
    let (factor, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|exponent| *exponent <= 18)?;
            (10_i128.pow(exponent), 1)
        }
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 18 || fraction.contains('.') {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let value =
        digits(whole)?.checked_mul(scale)?.checked_add(digits(fraction)?)?.checked_mul(factor)?.checked_mul(by)?;
    i64::try_from(value / scale / divisor).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_of_kubernetes_are_read() {
        for (text, want) in [
            ("0", Some(0)),
            ("1k", Some(1000)),
            ("128Mi", Some(128 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("2500m", Some(2)),
            ("1e3", Some(1000)),
            ("12E", None),
            ("-1", None),
            ("Mi", None),
            ("1.2.3", None),
            ("1Xi", None),
            ("", None),
        ] {
            assert_eq!(quantity(text), want, "{text}");
        }
    }

    #[test]
    fn a_field_of_a_wrong_type_is_not_there() {
        let object = json!({"a": {"b": [1]}, "n": "7", "t": "true", "when": "0001-01-01T00:00:00Z", "l": 3});
        assert_eq!(text(&object, &["a", "b"]), None);
        assert_eq!(text(&object, &["a", "b", "c"]), None);
        assert_eq!(integer(&object, &["n"]), Some(7));
        assert_eq!(boolean(&object, &["t"]), Some(true));
        assert_eq!(time(&object, &["when"]), None);
        assert!(list(&object, &["l"]).is_empty());
    }

    #[test]
    fn times_are_read_with_and_without_fractions() {
        assert_eq!(parse_time("2026-03-01T10:15:00Z"), Some(1_772_360_100_000_000));
        assert_eq!(parse_time("2026-03-01T10:15:00.123456Z"), Some(1_772_360_100_123_456));
        assert_eq!(parse_time("2026-03-01 12:15:00+02:00"), Some(1_772_360_100_000_000));
        assert_eq!(parse_time("yesterday"), None);
    }
}
