//! How a command fails: an exit code, an error with its causes, and what to do about it.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::process::ExitCode;

use everpoint_retention::{ErrorKind, LoadError, RestoreError};
use everpoint_vault::history::HistoryError;
use everpoint_vault::{Cause, OpenError};

use crate::output;

/// What a command's end says to the shell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    /// All done.
    Done = 0,
    /// It was asked for rightly and did not succeed.
    Failed = 1,
    /// It was asked for wrongly: a flag, a key, a file that cannot be meant.
    Usage = 2,
    /// Bytes are not what was written.
    Integrity = 3,
    /// Whoever asks may not.
    NotAuthorised = 4,
    /// Not all of it is done.
    Incomplete = 5,
}

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    text: String,
    help: Option<String>,
}

impl Code {
    pub(crate) fn exit(self) -> ExitCode {
        ExitCode::from(self.number())
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }
}

impl Failure {
    /// A failure that is told in our own words.
    pub(crate) fn new(code: Code, text: impl Display) -> Self {
        Self {
            code,
            text: text.to_string(),
            help: None,
        }
    }

    /// Bad input.
    pub(crate) fn usage(text: impl Display) -> Self {
        Self::new(Code::Usage, text)
    }

    /// An error with its causes. Where the operating system refused for want of permission, that is the
    /// code, whatever else would have been.
    pub(crate) fn of(code: Code, error: &(dyn Error + 'static)) -> Self {
        if is_refused(error) {
            let help = "run this as the user that owns it, or give that user access";
            return Self::new(Code::NotAuthorised, chain(error)).help(help);
        }
        Self::new(code, chain(error))
    }

    /// Says what to do, unless that is known already.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Display) -> Self {
        self.help.get_or_insert_with(|| help.to_string());
        self
    }

    /// Says first what was tried.
    #[must_use]
    pub(crate) fn while_doing(mut self, what: impl Display) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }

    pub(crate) const fn code(&self) -> Code {
        self.code
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", output::escape_lines(&self.text))?;
        match &self.help {
            Some(help) => write!(f, "\nhelp: {}", output::escape_lines(help)),
            None => Ok(()),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match error {
            OpenError::Access(_)
            | OpenError::Config(_)
            | OpenError::Missing { .. }
            | OpenError::NotADirectory { .. }
            | OpenError::NetworkFilesystem { .. } => Code::Usage,
            OpenError::Unavailable {
                source: Cause::NoContainer { .. },
            } => Code::Usage,
            _ if error.is_denied() => Code::NotAuthorised,
            _ => Code::Failed,
        };
        Self::of(code, &error).while_doing("--vault")
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        LoadError::from(error).into()
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let help = match &error {
            LoadError::NoSuchMachine { .. } | LoadError::NoSuchDisk { .. } => {
                Some("`everpoint disk list` names the machines and disks of the vault")
            }
            LoadError::DiskNotSeen { .. } => Some("`everpoint check` says what is damaged"),
            LoadError::History(HistoryError::NotAVault { .. }) => {
                Some("--vault names the directory that a process server writes to")
            }
            LoadError::History(_) => None,
        };
        with_help(Self::of(error.kind().into(), &error), help)
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let help = match &error {
            RestoreError::Output(_) => Some(
                "name another --output; --overwrite replaces a file, --force-overwrite DEVICE a block device",
            ),
            RestoreError::Point(_) => {
                Some("`everpoint point list` names the points that there are")
            }
            RestoreError::Integrity(_) => Some(
                "`everpoint check --read-data` says which points are whole; another --at may be",
            ),
            RestoreError::Target { source, .. } if source.refusal().is_none() => {
                Some("look at the network and at the account's endpoint, and begin again")
            }
            RestoreError::Load(_) => {
                Some("`everpoint disk list` names the machines and disks of the vault")
            }
            _ => None,
        };
        with_help(Self::of(error.kind().into(), &error), help)
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Integrity => Self::Integrity,
            ErrorKind::Incomplete => Self::Incomplete,
            ErrorKind::Denied => Self::NotAuthorised,
            ErrorKind::Io => Self::Failed,
        }
    }
}

fn with_help(failure: Failure, help: Option<&str>) -> Failure {
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// An error with all its causes on one line. A cause that only repeats what was said is left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// Whether the operating system refused for want of permission.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let found = error.downcast_ref::<io::Error>();
        if found.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn causes_are_told_in_order_and_none_twice() {
        let deepest = Said("no such file", None);
        let same = Said("cannot open: no such file", Some(Box::new(deepest)));
        let top = Said("the key", Some(Box::new(same)));
        let failure = Failure::of(Code::Failed, &top).help("make one");
        let expected = "error: the key: cannot open: no such file\nhelp: make one";
        assert_eq!(failure.to_string(), expected);
    }

    #[test]
    fn a_refusal_of_the_operating_system_is_told_apart() {
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(
            Failure::of(Code::Failed, &refused).code(),
            Code::NotAuthorised
        );
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Failure::of(Code::Usage, &missing).code(), Code::Usage);
    }

    #[test]
    fn what_comes_from_outside_cannot_steer_a_terminal() {
        let failure = Failure::usage("no disk \u{1b}[2J");
        assert_eq!(failure.to_string(), "error: no disk \\u{1b}[2J");
    }
}
