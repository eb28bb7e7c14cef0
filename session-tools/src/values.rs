//! Values of flags: counts, durations and shares.

use std::time::Duration;

use clap::{
    Command,
    builder::{RangedI64ValueParser, Resettable},
    value_parser,
};

/// A whole, in the unit of [`share`].
const PER_MILLE: u32 = 1_000;

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A day, the longest span of any flag.
pub const DAY: Duration = Duration::from_secs(86_400);

/// Returns a parser of a number from 1 to `most`.
pub fn count(most: u32) -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=i64::from(most))
}

/// Returns the command with the arguments whose variable is empty as if it were not set.
///
/// An application's empty variable counts as not set, and clap would read it as a value.
pub fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            let is_empty = value.is_some_and(|value| value.to_string_lossy().trim().is_empty());
            if is_empty { arg.env(Resettable::Reset) } else { arg }
        })
        .mut_subcommands(without_empty_variables)
}

/// Returns a parser of a duration from `least` to `most`.
pub fn duration(
    least: Duration,
    most: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| {
        let duration = parsed(text)
            .ok_or("a duration is a whole number with its unit, such as 50ms, 30s or 5m")?;
        if (least..=most).contains(&duration) {
            Ok(duration)
        } else {
            Err(format!("the duration must be at least {least:?} and at most {most:?}"))
        }
    }
}

/// Parses a share from 0 to 1 with at most three decimals. Returns it per mille.
///
/// # Errors
/// If the text is no such number.
pub fn share(text: &str) -> Result<u32, &'static str> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let per_mille = (!whole.is_empty()
        && digits(whole)
        && digits(decimals)
        && (1..=3).contains(&decimals.len()))
    .then(|| format!("{whole}{decimals:0<3}").parse().ok())
    .flatten();
    per_mille
        .filter(|share| *share <= PER_MILLE)
        .ok_or("a share is a number from 0 to 1 with at most three decimals, such as 0.25")
}

fn parsed(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|it: char| !it.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_has_a_number_and_a_unit() {
        for (text, millis) in [("50ms", 50), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000)] {
            assert_eq!(parsed(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "30 s", "1d", "99999999999999999999s", "1µs"] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(parsed(&format!("{}h", u64::MAX)), None);
    }

    #[test]
    fn duration_out_of_bounds_is_an_error_with_the_bounds() {
        let of = duration(SECOND, SECOND * 300);
        for (text, expected) in [("1s", SECOND), ("5m", SECOND * 300)] {
            assert_eq!(of(text), Ok(expected));
        }
        for text in ["999ms", "301s"] {
            assert!(of(text).is_err_and(|error| error.contains("at least 1s and at most 300s")));
        }
    }

    #[test]
    fn share_is_returned_per_mille() {
        for (text, expected) in
            [("0", 0), ("0.25", 250), ("0.02", 20), ("0.5", 500), ("1.0", 1_000)]
        {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for text in ["", "250", "1.001", "-0.1", "0.0005", ".5", "0.", "1e-1", "+0.1"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
