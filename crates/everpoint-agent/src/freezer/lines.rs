//! Lines from pipes, waited for with a deadline, in a process that must not wait for anything else.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use everpoint_units::Moment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::Clock;

/// Longest line: a word and three numbers. Unit: bytes.
const LINE_LEN_MAX: usize = 256;

/// Lines that come through a pipe.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    unread: Vec<u8>,
}

/// The other end is gone, or talks nonsense.
#[derive(Debug)]
pub(crate) struct Gone;

impl<R: Read + AsFd> Lines<R> {
    pub(crate) const fn new(from: R) -> Self {
        Self {
            from,
            unread: Vec::new(),
        }
    }

    /// Where to wait for more.
    pub(crate) fn pipe(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    /// Reads once, which waits unless [`wait`] said that it would not, and gives the lines that are whole.
    pub(crate) fn read(&mut self) -> Result<Vec<String>, Gone> {
        let mut bytes = [0; LINE_LEN_MAX];
        let len = loop {
            match self.from.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Err(Gone),
                Ok(len) => break len,
            }
        };
        self.unread.extend_from_slice(&bytes[..len]);
        let mut lines = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            lines.push(String::from_utf8(line[..end].to_vec()).map_err(|_| Gone)?);
        }
        if LINE_LEN_MAX < self.unread.len() {
            return Err(Gone);
        }
        Ok(lines)
    }
}

/// Waits until something can be read, or `deadline`, and says of each pipe whether that is so.
pub(crate) fn wait<const N: usize>(
    pipes: [BorrowedFd<'_>; N],
    deadline: Option<Moment>,
    clock: Clock,
) -> [bool; N] {
    let mut polled = pipes.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN));
    let left = deadline.map(|deadline| deadline.since(clock.now()));
    let left = left.map(|left| Timespec::try_from(left).unwrap_or_default());
    match poll(&mut polled, left.as_ref()) {
        // Woken by a signal: look again.
        Err(_) => [false; N],
        Ok(_) => polled.map(|pipe| !pipe.revents().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_come_whole_and_an_end_is_noticed() {
        let (from, mut to) = io::pipe().unwrap();
        let mut lines = Lines::new(from);
        let clock = Clock::start();
        let soon = Some(clock.now());
        assert_eq!(wait([lines.pipe()], soon, clock), [false]);
        to.write_all(b"one\ntw").unwrap();
        assert_eq!(wait([lines.pipe()], None, clock), [true]);
        assert_eq!(lines.read().unwrap(), ["one"]);
        to.write_all(b"o\n").unwrap();
        assert_eq!(lines.read().unwrap(), ["two"]);
        drop(to);
        assert_eq!(wait([lines.pipe()], None, clock), [true]);
        assert!(lines.read().is_err());
    }

    #[test]
    fn a_line_without_end_is_nonsense() {
        let (from, mut to) = io::pipe().unwrap();
        let mut lines = Lines::new(from);
        to.write_all(&[b'x'; 2 * LINE_LEN_MAX]).unwrap();
        assert!(lines.read().is_ok());
        assert!(lines.read().is_err());
    }
}
