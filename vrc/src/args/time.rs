//! Lengths of time, as people write them.

use std::time::Duration;

/// `3` and `3s` are seconds; `500ms`, `20m`, `2h` what they look like; fractions are fine.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let text = text.trim();
    let (number, seconds_per_unit) =
        UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds))).unwrap_or((text, 1.0));
    let error = || "not a time such as 3, 3s, 500ms, 20m or 2h".to_owned();
    // `inf`, `nan` and `1e9` are numbers to Rust, not to people who set a timeout.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(error());
    }
    let seconds = number.parse::<f64>().map_err(|_| error())? * seconds_per_unit;
    Duration::try_from_secs_f64(seconds).map_err(|_| error())
}

/// The longest wait for something: no time at all is none.
pub(crate) fn parse_limit(text: &str) -> Result<Duration, String> {
    parse_time_from(text, Duration::from_millis(1))
}

/// At least `least`.
pub(crate) fn parse_time_from(text: &str, least: Duration) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time < least {
        return Err(format!("too short: give {} ms or more", least.as_millis()));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ms) in
            [("3", 3_000), ("0.5", 500), ("3s", 3_000), ("250ms", 250), ("20m", 1_200_000), ("2h", 7_200_000), ("0", 0)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "3 s", "inf", "nan", "1e3", "3d", "3ss", "99999999999999999999999"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_is_no_less_than_something_can_be_done_in() {
        assert_eq!(parse_limit("1ms"), Ok(Duration::from_millis(1)));
        for text in ["0", "0s", "0.5ms", "soon"] {
            assert!(parse_limit(text).is_err(), "{text}");
        }
        assert_eq!(parse_time_from("9ms", Duration::from_millis(10)), Err("too short: give 10 ms or more".to_owned()));
    }
}
