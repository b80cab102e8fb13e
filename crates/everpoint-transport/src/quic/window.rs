//! How large a link's receive window should be. Pure: bytes read and times go in, a wish comes out.
//!
//! A window is worth enlarging when it holds the peer back: then one window's worth of bytes arrives
//! every round trip, again and again. It is worth giving back when a window's worth takes long. A
//! round is one window's worth of bytes read; its time against the path's round trip, without the
//! queues that bytes wait in, tells which. (Against the round trip with queues every window grows to
//! its limit: a larger one makes a longer queue. On loopback that cost 5 to 10 % of CPU.)
//!
//! QUIC cannot take back credit that was given. A smaller window counts from the moment on when as
//! many bytes as it shrank by were read; only then are they free for others.

use std::time::Duration;

use everpoint_units::Moment;

/// A round shorter than this many round trips means that the window holds the peer back.
const HELD_BACK_RTTS: u32 = 2;

/// A round longer than this means that half the window would do.
const LEISURE: Duration = Duration::from_secs(2);

/// The window of one link, as decided so far.
#[derive(Clone, Debug)]
pub(super) struct Window {
    start: u32,
    max: u32,
    size: u32,
    round_began: Moment,
    round_ends_at: u64,
}

/// What a window wants to become. Unit: bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    Keep,
    /// Ask for the difference, and call [`Window::grant`] if it was had.
    Grow {
        to: u32,
    },
    /// Done already; the difference is free once `free_at` bytes were read in all.
    Shrink {
        by: u32,
        to: u32,
        free_at: u64,
    },
}

impl Window {
    pub(super) fn new(start: u32, max: u32, now: Moment) -> Self {
        Self {
            start,
            max,
            size: start,
            round_began: now,
            round_ends_at: u64::from(start),
        }
    }

    /// Bytes read in all at which the round ends. Below it nothing has to be asked.
    pub(super) fn round_ends_at(&self) -> u64 {
        self.round_ends_at
    }

    /// `read` bytes were read in all. Ends the round if that is enough.
    pub(super) fn handle_read(&mut self, read: u64, now: Moment, rtt: Duration) -> Wish {
        if read < self.round_ends_at {
            return Wish::Keep;
        }
        let round = now.since(self.round_began);
        self.round_began = now;
        let wish = if round <= rtt * HELD_BACK_RTTS && self.size < self.max {
            Wish::Grow {
                to: self.size.saturating_mul(2).min(self.max),
            }
        } else if round > LEISURE && self.size > self.start {
            let to = (self.size / 2).max(self.start);
            let by = self.size - to;
            self.size = to;
            Wish::Shrink {
                by,
                to,
                free_at: read + u64::from(by),
            }
        } else {
            Wish::Keep
        };
        self.round_ends_at = read + u64::from(self.size);
        wish
    }

    /// The window has grown to `to`.
    pub(super) fn grant(&mut self, to: u32) {
        self.round_ends_at += u64::from(to - self.size);
        self.size = to;
    }

    /// What it is now. Unit: bytes.
    pub(super) fn size(&self) -> u32 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn a_window_that_holds_the_peer_back_grows_up_to_its_limit() {
        let mut window = Window::new(100, 300, at(0));
        assert_eq!(window.handle_read(99, at(5), RTT), Wish::Keep);
        assert_eq!(window.handle_read(100, at(10), RTT), Wish::Grow { to: 200 });
        window.grant(200);
        assert_eq!(window.round_ends_at(), 300);
        assert_eq!(window.handle_read(300, at(20), RTT), Wish::Grow { to: 300 });
        window.grant(300);
        assert_eq!(window.handle_read(600, at(30), RTT), Wish::Keep);
    }

    #[test]
    fn a_wish_that_is_not_granted_is_asked_again_a_round_later() {
        let mut window = Window::new(100, 300, at(0));
        assert_eq!(window.handle_read(100, at(10), RTT), Wish::Grow { to: 200 });
        assert_eq!(window.handle_read(150, at(12), RTT), Wish::Keep);
        assert_eq!(window.handle_read(200, at(15), RTT), Wish::Grow { to: 200 });
        assert_eq!(window.size(), 100);
    }

    #[test]
    fn a_peer_that_does_not_fill_its_window_gets_no_more() {
        let mut window = Window::new(100, 300, at(0));
        assert_eq!(window.handle_read(100, at(21), RTT), Wish::Keep);
    }

    #[test]
    fn a_window_at_leisure_shrinks_to_its_start_and_says_when_that_counts() {
        let mut window = Window::new(100, 300, at(0));
        window.grant(300);
        assert_eq!(
            window.handle_read(300, at(3_000), RTT),
            Wish::Shrink {
                by: 150,
                to: 150,
                free_at: 450
            }
        );
        assert_eq!(
            window.handle_read(450, at(6_000), RTT),
            Wish::Shrink {
                by: 50,
                to: 100,
                free_at: 500
            }
        );
        assert_eq!(window.handle_read(550, at(9_000), RTT), Wish::Keep);
    }
}
