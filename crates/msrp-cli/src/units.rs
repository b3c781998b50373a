//! Sizes and times as people write them, both ways.

use std::time::Duration;

/// `1000`, `64K`, `64KiB`, `10M`, `1G`: powers of 1024, in bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 =
        digits.parse().map_err(|_| "expected a number such as 1000, 64K, 10M or 1G".to_owned())?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("unknown unit {unit:?}: use K, M, G or T")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// As [`parse_size`], but at least 1.
pub(crate) fn parse_chunk_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a chunk has at least 1 byte".to_owned()),
        size => Ok(size),
    }
}

/// `10`, `10s`, `500ms`, `2m`, `1h`; at least a millisecond.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| "expected a time such as 10s, 500ms or 2m".to_owned())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    match number.checked_mul(millis) {
        None | Some(0) => Err("out of bounds".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// `17 B`, `1.50 KiB`, `1.00 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.2} {unit}") }
}

/// Bytes per time, as [`size`] writes them, a second: `110.25 MiB/s`.
pub(crate) fn rate(bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    // A rate beyond the largest integer is cut there.
    let each = if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    format!("{}/s", size(each as u64))
}

/// `1 file`, `2 files`, for words that take an `s`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A short time, given in microseconds, with the unit that fits: `62.6 µs`, `13.1 ms`, `1.20 s`.
pub(crate) fn short_time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.1} µs"),
        1e3..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// How long something will take: `0:07`, `12:40`, `1:02:03`.
pub(crate) fn countdown(left: Duration) -> String {
    let (hours, minutes, seconds) = (left.as_secs() / 3600, left.as_secs() / 60 % 60, left.as_secs() % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Millions of bytes a second, for programs; 0 where no time has passed.
pub(crate) fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { bytes as f64 / 1e6 / seconds } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("64K", 65536), ("64KiB", 65536), ("10m", 10 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(parse_size(text).unwrap(), bytes);
        }
        for text in ["", "K", "-1", "1X", "1.5G", "99999999999999999999", "99999999T"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
        assert!(parse_chunk_size("0").is_err());
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in
            [("10", 10_000), ("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis));
        }
        for text in ["", "0", "s", "1d", "99999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_with_the_unit_that_fits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.50 KiB");
        assert_eq!(size(1 << 30), "1.00 GiB");
        assert_eq!(rate(3 << 20, Duration::from_secs(2)), "1.50 MiB/s");
        assert_eq!(rate(1 << 20, Duration::ZERO), "0 B/s");
    }

    #[test]
    fn times_are_shown_with_the_unit_that_fits() {
        assert_eq!(
            [62.6, 999.9, 13_107.2, 1_200_000.0].map(short_time),
            ["62.6 µs", "999.9 µs", "13.1 ms", "1.20 s"]
        );
        assert_eq!(
            [7, 760, 3723].map(|left| countdown(Duration::from_secs(left))),
            ["0:07", "12:40", "1:02:03"]
        );
    }

    #[test]
    fn one_of_a_thing_is_not_many() {
        assert_eq!(
            [0, 1, 2].map(|count| counted(count, "problem")),
            ["0 problems", "1 problem", "2 problems"]
        );
    }
}
