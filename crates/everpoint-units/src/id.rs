//! Names of things: 128 random bits, never reused, written as a UUID is written.

use std::fmt;
use std::str::FromStr;

use crate::{Level, ManifestNo};

/// A text that is not an id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} must be 32 hexadecimal digits, with or without hyphens")]
pub struct ParseIdError {
    what: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, byte) in self.0.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                hex16(text.bytes().filter(|&b| b != b'-'))
                    .map(Self)
                    .ok_or(ParseIdError { what: $what })
            }
        }
    };
}

id!(
    /// A protected machine. Its certificate names it.
    MachineId,
    "a machine id"
);
id!(
    /// A protected disk; it belongs to one machine.
    DiskId,
    "a disk id"
);
id!(
    /// One unbroken run of a disk's write order.
    GenerationId,
    "a generation id"
);
id!(
    /// A vault, from its header object.
    VaultId,
    "a vault id"
);
id!(
    /// A process server, the same over all its boots.
    ServerId,
    "a server id"
);

/// A journal's name: its level and 128 random bits, so that no two boots ever share one (R1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct JournalId {
    /// The epoch of the machines in it.
    pub level: Level,
    /// What makes the name unique.
    pub random: [u8; 16],
}

/// Name of a map layer or a pack: the number of the manifest that it was made for, and 128 random bits, so that two
/// writers of one manifest never meet (R16).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RetentionId {
    /// Nothing of a manifest below refers to it.
    pub number: ManifestNo,
    /// What makes the name unique.
    pub random: [u8; 16],
}

/// A number as names in the vault write it: 20 decimal digits, so that text order is number order.
pub fn decimal20(number: u64) -> String {
    format!("{number:020}")
}

/// `<level in 20 digits>-<32 hexadecimal digits>`, as in object names.
impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        numbered(f, self.level.0, &self.random)
    }
}

impl FromStr for JournalId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (level, random) = parse_numbered(text).ok_or(ParseIdError { what: "a journal" })?;
        let level = Level(level);
        Ok(Self { level, random })
    }
}

/// `<number in 20 digits>-<32 hexadecimal digits>`, as in object names.
impl fmt::Display for RetentionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        numbered(f, self.number.0, &self.random)
    }
}

impl FromStr for RetentionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let what = "a layer or pack";
        let (number, random) = parse_numbered(text).ok_or(ParseIdError { what })?;
        let number = ManifestNo(number);
        Ok(Self { number, random })
    }
}

fn numbered(f: &mut fmt::Formatter<'_>, number: u64, random: &[u8; 16]) -> fmt::Result {
    write!(f, "{number:020}-")?;
    random.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn parse_numbered(text: &str) -> Option<(u64, [u8; 16])> {
    let (number, random) = text.split_once('-')?;
    let digits = number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse().ok().filter(|_| digits)?;
    Some((number, hex16(random.bytes())?))
}

fn hex16(digits: impl Iterator<Item = u8>) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    let mut count = 0_usize;
    for digit in digits {
        let value = u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        let byte = id.get_mut(count / 2)?;
        *byte = *byte << 4 | value;
        count += 1;
    }
    (count == 32).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_prints() {
        let id = DiskId(std::array::from_fn(|i| {
            u8::try_from(i * 17).expect("below 256")
        }));
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "0011",
            "00112233-4455-6677-8899-aabbccddeefg",
            "00112233445566778899aabbccddeeff0",
        ] {
            assert!(bad.parse::<DiskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn journals_sort_by_level_and_refuse_other_shapes() {
        let low = JournalId {
            level: Level(9),
            random: [0xff; 16],
        };
        let high = JournalId {
            level: Level(10),
            random: [0; 16],
        };
        assert!(low.to_string() < high.to_string());
        assert_eq!(high.to_string().parse(), Ok(high));
        assert!("9-00".parse::<JournalId>().is_err());
    }
}
