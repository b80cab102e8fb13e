//! Lengths as flags take them: whole bytes, or KiB, MiB, GiB and TiB, and nothing that could mean two things.

use std::str::FromStr;

use everpoint_units::ByteLen;

/// A length from a flag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Size(pub(crate) ByteLen);

/// A text that is no length, and what to write instead.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ParseSizeError {
    #[error("write a whole number of bytes, or one with KiB, MiB, GiB or TiB, as in 256MiB")]
    Shape,
    #[error("{text} is ambiguous: write {instead}")]
    Unit { text: String, instead: String },
    #[error("{text} is more than 2^64 bytes")]
    TooLarge { text: String },
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(ParseSizeError::Shape);
        }
        let too_large = || ParseSizeError::TooLarge {
            text: text.to_owned(),
        };
        let number: u64 = number.parse().map_err(|_| too_large())?;
        let shift = match unit {
            "" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(other_unit(text, number, unit)),
        };
        let len = number.checked_mul(1 << shift).ok_or_else(too_large)?;
        Ok(Self(ByteLen(len)))
    }
}

/// What `10G`, `10GB`, `10gb`, `10Gb` and `10gib` should have been.
fn other_unit(text: &str, number: u64, unit: &str) -> ParseSizeError {
    let letter = unit
        .chars()
        .next()
        .map(|letter| letter.to_ascii_uppercase());
    let rest = unit.get(1..).map(str::to_ascii_lowercase);
    match (letter, rest.as_deref()) {
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), Some("" | "b" | "ib" | "i")) => {
            ParseSizeError::Unit {
                text: text.to_owned(),
                instead: format!("{number}{letter}iB"),
            }
        }
        (Some('B'), Some("" | "ytes")) => ParseSizeError::Unit {
            text: text.to_owned(),
            instead: number.to_string(),
        },
        _ => ParseSizeError::Shape,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_bytes_and_binary_units_are_lengths() {
        for (text, len) in [
            ("0", 0),
            ("4096", 4_096),
            ("4KiB", 4_096),
            ("256MiB", 256 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(ByteLen(len))), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused_with_the_right_spelling() {
        for (text, instead) in [
            ("10G", "10GiB"),
            ("10Gb", "10GiB"),
            ("10GB", "10GiB"),
            ("10gib", "10GiB"),
            ("5k", "5KiB"),
            ("7B", "7"),
        ] {
            let error = text.parse::<Size>().expect_err(text);
            assert_eq!(
                error.to_string(),
                format!("{text} is ambiguous: write {instead}")
            );
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "+1",
            "1.5GiB",
            "1 GiB",
            "0x10",
            "1é",
            "10furlongs",
        ] {
            assert_eq!(text.parse::<Size>(), Err(ParseSizeError::Shape), "{text}");
        }
        for text in ["18446744073709551616", "16777216TiB"] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(matches!(error, ParseSizeError::TooLarge { .. }), "{text}");
        }
    }
}
