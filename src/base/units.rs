//! Sizes and durations as people write them: `64MiB`, `250ms`. One spelling for every flag and setting.
//!
//! A bare number is bytes for a size; a duration must name its unit. Suffixes are case-sensitive, fractions
//! are not taken (`1536KiB`, not `1.5MiB`), and nothing overflows silently.

use std::time::Duration;

/// Why a size or a duration could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// No digits at the front.
    #[error("`{text}` does not begin with a whole number")]
    NoNumber {
        /// What was given.
        text: String,
    },
    /// The unit is not one of those known.
    #[error("`{text}` has the unit `{unit}`, expected one of: {expected}")]
    UnknownUnit {
        /// What was given.
        text: String,
        /// Its unit.
        unit: String,
        /// The units there are.
        expected: &'static str,
    },
    /// Too large for 64 bits.
    #[error("`{text}` is too large")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

/// Reads a number of bytes: `4096`, `4KiB`, `64MiB`, `1GiB`, `2TiB`, or decimal `10kB`, `10MB`, `10GB`.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(unknown(text, unit, "B KiB MiB GiB TiB kB MB GB")),
    };
    number.checked_mul(factor).ok_or_else(|| UnitError::TooLarge { text: text.to_owned() })
}

/// Reads a duration: `500ns`, `10us`, `250ms`, `10s`, `5m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(unknown(text, unit, "ns us ms s m h")),
    };
    let ns = number.checked_mul(factor).ok_or_else(|| UnitError::TooLarge { text: text.into() })?;
    Ok(Duration::from_nanos(ns))
}

fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(UnitError::NoNumber { text: text.to_owned() });
    }
    let number = digits.parse().map_err(|_| UnitError::TooLarge { text: text.to_owned() })?;
    Ok((number, unit.trim_start()))
}

fn unknown(text: &str, unit: &str, expected: &'static str) -> UnitError {
    UnitError::UnknownUnit { text: text.to_owned(), unit: unit.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_written() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("2 GiB"), Ok(2 << 30));
        assert_eq!(parse_bytes("10kB"), Ok(10_000));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn wrong_ones_say_what_is_wrong() {
        assert!(matches!(parse_bytes("MiB"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_bytes("-1"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_bytes("1.5MiB"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(parse_bytes("64mib"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(parse_bytes("99999999999TiB"), Err(UnitError::TooLarge { .. })));
        assert!(matches!(parse_duration("10"), Err(UnitError::UnknownUnit { .. })));
        let message = parse_duration("10 sec").unwrap_err().to_string();
        assert_eq!(message, "`10 sec` has the unit `sec`, expected one of: ns us ms s m h");
    }
}
