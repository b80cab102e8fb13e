//! Which sectors a reader will want next, seen from what it reads.
//!
//! A few streams are followed at a time. A read that goes on where a stream stands makes its window twice as long, up
//! to a bound; any other read begins a stream and asks for nothing.

use crate::restore::Sectors;

/// Streams that are followed. Unit: streams.
const STREAM_COUNT_MAX: usize = 8;
/// A client with several requests in flight has them arrive a little out of order. Unit: sectors.
const DISORDER_MAX: u64 = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// Unit: sectors.
    window_max: u64,
    /// By last use, oldest first.
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    /// Behind what was read.
    next: u64,
    /// Behind what was asked for ahead.
    asked: u64,
    window: u64,
}

impl ReadAhead {
    /// Looks at most `window_max` sectors ahead.
    pub(super) const fn new(window_max: u64) -> Self {
        Self {
            window_max,
            streams: Vec::new(),
        }
    }

    /// These sectors are read now. Gives what to fetch ahead, which may be nothing.
    pub(super) fn note(&mut self, read: &Sectors) -> Sectors {
        let goes_on = |stream: &Stream| read.start.abs_diff(stream.next) <= DISORDER_MAX;
        let Some(at) = self.streams.iter().position(goes_on) else {
            if self.streams.len() == STREAM_COUNT_MAX {
                self.streams.remove(0);
            }
            self.streams.push(Stream {
                next: read.end,
                asked: read.end,
                window: 0,
            });
            return read.end..read.end;
        };
        let mut stream = self.streams.remove(at);
        stream.next = stream.next.max(read.end);
        let least = read.end - read.start;
        stream.window = (stream.window * 2).max(least).min(self.window_max);
        let (from, end) = (stream.asked.max(stream.next), stream.next + stream.window);
        // In strides: not for each small read a small step.
        let is_due = from + stream.window / 2 <= end && from < end;
        if is_due {
            stream.asked = end;
        }
        self.streams.push(stream);
        if is_due { from..end } else { from..from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_read_asks_for_nothing_ahead() {
        let mut ahead = ReadAhead::new(1 << 14);
        for start in [0, 1 << 20, 1 << 30] {
            assert!(ahead.note(&(start..start + 8)).is_empty(), "{start}");
        }
    }

    #[test]
    fn reads_one_after_the_other_look_further_and_further_ahead_but_not_beyond_the_bound() {
        let mut ahead = ReadAhead::new(256);
        let mut asked_to = 8;
        for at in 0..1_000_u64 {
            let read = at * 8..at * 8 + 8;
            let more = ahead.note(&read);
            if more.is_empty() {
                continue;
            }
            assert!(asked_to <= more.start, "{more:?} was asked for before");
            assert!(
                more.end <= read.end + 256,
                "{more:?} is too far from {read:?}"
            );
            asked_to = more.end;
        }
        assert!(7_900 < asked_to, "{asked_to}");
    }

    #[test]
    fn streams_side_by_side_are_told_apart() {
        let mut ahead = ReadAhead::new(256);
        let mut fetched = [0_u64; 4];
        for at in 0..100_u64 {
            for (stream, fetched) in (0_u64..).zip(&mut fetched) {
                let start = (stream << 30) + at * 8;
                let more = ahead.note(&(start..start + 8));
                *fetched += more.end - more.start;
            }
        }
        assert!(fetched.iter().all(|&sectors| 700 < sectors), "{fetched:?}");
    }

    #[test]
    fn a_window_of_nothing_switches_it_off() {
        let mut ahead = ReadAhead::new(0);
        for at in 0..100_u64 {
            assert!(ahead.note(&(at * 8..at * 8 + 8)).is_empty());
        }
    }
}
