//! Which instant an operator means: `latest`, `latest-app`, a bookmark's name, a time or `seq:N`.

use std::fmt;
use std::str::FromStr;

use everpoint_format::record::{Consistency, NAME_LEN_MAX};
use everpoint_journal::history::NotAPoint;
use everpoint_units::{DiskId, Seq, WallTime};

use crate::error::ErrorKind;
use crate::machine::{DamageNote, LoadedMachine};

/// An instant, as it is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum At {
    /// The newest recovery point.
    Latest,
    /// The newest app-consistent bookmark that can be restored.
    LatestApp,
    /// A position in the machine's write order.
    Seq(Seq),
    /// The newest recovery point at or before this time.
    Time(WallTime),
    /// The bookmark of this name.
    Bookmark(String),
}

/// Why a text names no instant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseAtError {
    /// Nothing at all.
    #[error("a point must be latest, latest-app, a bookmark's name, an RFC 3339 time or seq:N")]
    Empty,
    /// `seq:` without a number.
    #[error("{text:?} is no position: write seq: and a whole number, as in seq:4711")]
    Seq { text: String },
    /// Longer than any bookmark's name.
    #[error("a bookmark's name has at most {NAME_LEN_MAX} bytes, this one has {len}")]
    TooLong { len: usize },
}

/// Why an instant is no recovery point.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoPoint {
    /// A `Seq` or time that cannot be restored, or nothing can.
    #[error(transparent)]
    NotAPoint(#[from] NotAPoint),
    /// No bookmark has the name.
    #[error("there is no bookmark {name:?}")]
    NoBookmark { name: String },
    /// Several bookmarks have the name.
    #[error("several bookmarks are named {name:?}: say which by {}", join(seqs))]
    Ambiguous { name: String, seqs: Vec<Seq> },
    /// No app-consistent bookmark can be restored.
    #[error("there is no app-consistent bookmark that can be restored")]
    NoAppBookmark,
}

/// No recovery point, and whether that may be because the history is damaged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PointError {
    /// What is wrong with the instant.
    pub reason: NoPoint,
    /// What is damaged in the machine's history.
    pub damage: Vec<DamageNote>,
}

impl FromStr for At {
    type Err = ParseAtError;

    fn from_str(text: &str) -> Result<Self, ParseAtError> {
        if let Some(number) = text.strip_prefix("seq:") {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let seq = number.parse().ok().filter(|_| digits);
            return seq.map(|seq| Self::Seq(Seq(seq))).ok_or_else(|| {
                let text = text.chars().take(NAME_LEN_MAX).collect();
                ParseAtError::Seq { text }
            });
        }
        match text {
            "" => Err(ParseAtError::Empty),
            "latest" => Ok(Self::Latest),
            "latest-app" => Ok(Self::LatestApp),
            _ if NAME_LEN_MAX < text.len() => Err(ParseAtError::TooLong { len: text.len() }),
            _ => Ok(WallTime::parse_rfc3339(text)
                .map_or_else(|| Self::Bookmark(text.to_owned()), Self::Time)),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::LatestApp => f.write_str("latest-app"),
            Self::Seq(seq) => seq.fmt(f),
            Self::Time(time) => time.fmt(f),
            Self::Bookmark(name) => f.write_str(name),
        }
    }
}

impl LoadedMachine {
    /// The recovery point that `at` names, of one disk or of the machine.
    ///
    /// # Errors
    ///
    /// See [`PointError`].
    pub fn resolve(&self, disk: Option<DiskId>, at: &At) -> Result<Seq, PointError> {
        let resolved = match at {
            At::Latest => self.latest(disk).map_err(NoPoint::from),
            At::LatestApp => self.latest_app(disk),
            At::Seq(seq) => self
                .check_point(disk, *seq)
                .map(|()| *seq)
                .map_err(NoPoint::from),
            At::Time(time) => self.at_time(disk, *time).map_err(NoPoint::from),
            At::Bookmark(name) => self.bookmark(disk, name),
        };
        resolved.map_err(|reason| PointError {
            reason,
            damage: self.damage().to_vec(),
        })
    }

    fn latest_app(&self, disk: Option<DiskId>) -> Result<Seq, NoPoint> {
        let windows = self.windows(disk);
        let bookmarks = self.history().bookmarks().iter().rev();
        bookmarks
            .filter(|(_, bookmark)| bookmark.class == Consistency::App)
            .map(|(&seq, _)| seq)
            .filter(|&seq| windows.iter().any(|span| span.contains(seq)))
            .find(|&seq| self.check_point(disk, seq).is_ok())
            .ok_or(NoPoint::NoAppBookmark)
    }

    fn bookmark(&self, disk: Option<DiskId>, name: &str) -> Result<Seq, NoPoint> {
        let bookmarks = self.history().bookmarks().iter();
        let seqs: Vec<Seq> = bookmarks
            .filter(|(_, bookmark)| bookmark.name == name)
            .map(|(&seq, _)| seq)
            .collect();
        let name = name.to_owned();
        match seqs[..] {
            [] => Err(NoPoint::NoBookmark { name }),
            [seq] => Ok(self.check_point(disk, seq).map(|()| seq)?),
            _ => Err(NoPoint::Ambiguous { name, seqs }),
        }
    }
}

impl PointError {
    /// What the caller does about it. What a damaged history does not show may have been there.
    pub fn kind(&self) -> ErrorKind {
        match &self.reason {
            NoPoint::Ambiguous { .. } | NoPoint::NotAPoint(NotAPoint::InsideRequest { .. }) => {
                ErrorKind::Usage
            }
            _ if !self.damage.is_empty() => ErrorKind::Integrity,
            NoPoint::NotAPoint(NotAPoint::Nothing) => ErrorKind::Incomplete,
            _ => ErrorKind::Usage,
        }
    }
}

impl std::error::Error for PointError {}

impl fmt::Display for PointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        match self.damage.first() {
            Some(first) if self.kind() == ErrorKind::Integrity => {
                write!(f, "; the history is damaged: {}", first.what)
            }
            _ => Ok(()),
        }
    }
}

fn join(seqs: &[Seq]) -> String {
    let seqs: Vec<_> = seqs.iter().map(Seq::to_string).collect();
    seqs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_positions_times_and_names_are_told_apart() {
        let time = WallTime::parse_rfc3339("2026-11-22T10:00:00Z").expect("a time");
        for (text, at) in [
            ("latest", At::Latest),
            ("latest-app", At::LatestApp),
            ("seq:4711", At::Seq(Seq(4_711))),
            ("2026-11-22T11:00:00+01:00", At::Time(time)),
            (
                "before the upgrade",
                At::Bookmark("before the upgrade".into()),
            ),
            ("2026-11-22", At::Bookmark("2026-11-22".into())),
        ] {
            assert_eq!(text.parse(), Ok(at), "{text}");
        }
    }

    #[test]
    fn what_names_no_instant_is_refused_with_the_way_to_write_it() {
        for text in [
            "seq:",
            "seq:-1",
            "seq:+1",
            "seq:1.5",
            "seq:18446744073709551616",
        ] {
            assert!(
                matches!(text.parse::<At>(), Err(ParseAtError::Seq { .. })),
                "{text}"
            );
        }
        assert_eq!("".parse::<At>(), Err(ParseAtError::Empty));
        let long = "x".repeat(NAME_LEN_MAX + 1);
        assert_eq!(long.parse::<At>(), Err(ParseAtError::TooLong { len: 256 }));
    }
}
