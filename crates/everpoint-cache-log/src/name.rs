//! Names of the log's files, and where a record lies among them.

use std::fmt;

use everpoint_format::cache_log::LogFileNo;
use everpoint_units::{ByteOffset, decimal20};

/// A file of the log, by what it is for. The name alone says it, so that a crash between two steps
/// leaves nothing to guess.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FileName {
    /// `<number>.log`: has a header and takes records, or holds them.
    Log(LogFileNo),
    /// `<number>.spare`: every block written once, waiting for a header. The number only tells
    /// spares apart.
    Spare(u64),
    /// `<number>.new`: being zeroed; a boot that finds one removes it.
    New(u64),
}

/// Where a record begins. Positions rise in the order of `append`, over all files and boots of a
/// directory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LogPosition {
    file_no: LogFileNo,
    offset: ByteOffset,
}

impl FileName {
    /// Reads a name back; `None` for a file that is not the log's.
    pub fn parse(name: &str) -> Option<Self> {
        let (number, kind) = name.split_once('.')?;
        let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
        let counts_on = |number: &u64| digits && *number <= u64::MAX / 2;
        let number = number.parse().ok().filter(counts_on)?;
        match kind {
            "log" => Some(Self::Log(LogFileNo(number))),
            "spare" => Some(Self::Spare(number)),
            "new" => Some(Self::New(number)),
            _ => None,
        }
    }
}

impl LogPosition {
    /// The place of a record. A log reads only where one of its own positions points.
    pub const fn new(file_no: LogFileNo, offset: ByteOffset) -> Self {
        Self { file_no, offset }
    }

    /// The file that holds the record.
    pub const fn file_no(self) -> LogFileNo {
        self.file_no
    }

    /// Where in the file the record begins.
    pub const fn offset(self) -> ByteOffset {
        self.offset
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(number) => write!(f, "{}.log", decimal20(number.0)),
            Self::Spare(number) => write!(f, "{}.spare", decimal20(*number)),
            Self::New(number) => write!(f, "{}.new", decimal20(*number)),
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file_no, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_strangers_do_not() {
        for name in [
            FileName::Log(LogFileNo(7)),
            FileName::Spare(0),
            FileName::New(u64::MAX / 2),
        ] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for stranger in [
            "",
            "lock",
            "7.log",
            "00000000000000000007.log.bak",
            "0000000000000000007x.log",
            "00000000000000000007",
            "lost+found",
            "99999999999999999999.log",
            "18446744073709551615.log",
        ] {
            assert_eq!(FileName::parse(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn positions_rise_by_file_and_then_by_offset() {
        let at = |file, offset| LogPosition::new(LogFileNo(file), ByteOffset(offset));
        assert!(at(1, 9_000) < at(2, 4_096));
        assert!(at(2, 4_096) < at(2, 4_608));
    }
}
