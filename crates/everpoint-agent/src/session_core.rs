//! The machine's session, decided: which server is tried when, whose answer counts, and what comes
//! before a disk's stream is opened. Pure.
//!
//! ```text
//! servers in turn ─▶ hello ─▶ Admission: remember ─▶ reserve ─▶ open ─▶ … ─▶ ended
//!        ▲              └─ refused: the next one                               │
//!        └──── a round: back-off, 100 ms to 30 s, full jitter ◀────────────────┘
//! ```
//!
//! An answer counts only when it comes from the vault of the first contact and from an epoch that is
//! not lower than the highest seen (R12). All of it is checked before any of it is acted upon.

use std::time::Duration;

use everpoint_capture::{DiskSlot, Reservation, WriteOrder};
use everpoint_marks::{planted, reached};
use everpoint_units::{Level, MachineId, Moment, Seq, VaultId, WallTime};
use everpoint_wire::{DISKS_MAX, Hello, HelloAnswer, PROTOCOL, RefusalReason, ToAgent};

#[cfg(test)]
mod tests;

/// First and longest wait between two rounds. Source: the piece of work that this was built for.
const BACKOFF_FROM: Duration = Duration::from_millis(100);
const BACKOFF_TO: Duration = Duration::from_secs(30);
/// A round that took this long was a session, not an attempt: the next wait is short again.
const SESSION_MIN: Duration = Duration::from_secs(10);
/// Highest `Seq` that a server is believed; servers refuse higher ones too.
const SEQ_MAX: Seq = Seq(1 << 62);
/// Streams announced beyond the disks that are there, so that one can be attached without a new
/// session.
const SPARE_STREAMS: u32 = 8;

/// Which server is tried, and when. One round tries each once, until there is a session.
#[derive(Debug)]
pub struct SessionCore {
    server_count: usize,
    /// Where a round begins: the server of the last session. Index into the configured servers.
    first: usize,
    /// Servers that gave no session in this round.
    failed: usize,
    began: Option<Moment>,
    /// Rounds in a row that were no sessions.
    short_rounds: u32,
    /// The next round does not begin before.
    next_at: Moment,
}

/// What to do for a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attempt {
    /// Try this one of the configured servers; then say [`SessionCore::handle_failed`], or
    /// [`SessionCore::handle_ended`] when its session is over.
    Server(usize),
    /// Nothing until then.
    Until(Moment),
}

/// Which server's history this machine is in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionState {
    /// The vault of the first contact; no other is accepted.
    pub vault: Option<VaultId>,
    pub highest_epoch: Level,
}

/// An answer that counts, and what is left to do before a disk's stream is opened.
#[derive(Debug)]
pub struct Admission {
    epoch: Level,
    remember: Option<SessionState>,
    /// The highest `Seq` that the server states, and a mark above it.
    stated: Seq,
    mark: Seq,
}

/// What an [`Admission`] wants done next.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    /// Make this durable, then say [`Admission::handle_remembered`].
    Remember(SessionState),
    /// Make this mark durable, then say [`WriteOrder::extend_reservation`].
    Reserve(Seq),
    /// The session has begun. `lost`: these slots lost their order, because the server knows higher
    /// `Seq`s of this machine than it does itself.
    Open {
        /// What the server speaks for.
        epoch: Level,
        /// See above.
        lost: Vec<DiskSlot>,
    },
}

/// Why an answer to a hello gives no session.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AnswerError {
    /// It is none.
    #[error("the server answered something else")]
    Unexpected,
    /// The server does not serve the machine.
    #[error("the server refuses: {reason:?}: {text:?}")]
    Refused {
        /// Why.
        reason: RefusalReason,
        /// In its own words.
        text: String,
    },
    /// Another history.
    #[error(
        "the server belongs to vault {found}, this agent to {wanted}: correct `servers`, or remove \
         session.toml from state_dir to move the machine to another vault"
    )]
    Vault {
        /// The server's.
        found: VaultId,
        /// The one of the first contact.
        wanted: VaultId,
    },
    /// R12: it was fenced and does not know it.
    #[error("the server speaks for {offered}, and {seen} was seen before: it was taken over")]
    OldEpoch {
        /// What it speaks for.
        offered: Level,
        /// What spoke before.
        seen: Level,
    },
    /// Nothing could come after it.
    #[error("the server states a position that no machine reaches: {stated}")]
    Seq {
        /// The position.
        stated: Seq,
    },
}

impl SessionCore {
    /// No server was tried yet.
    ///
    /// # Panics
    ///
    /// If there is no server.
    pub const fn new(server_count: usize) -> Self {
        assert!(0 < server_count, "at least one server is configured");
        Self {
            server_count,
            first: 0,
            failed: 0,
            began: None,
            short_rounds: 0,
            next_at: Moment(0),
        }
    }

    /// What to do now.
    pub fn attempt(&mut self, now: Moment) -> Attempt {
        if self.began.is_none() && now < self.next_at {
            return Attempt::Until(self.next_at);
        }
        self.began.get_or_insert(now);
        Attempt::Server(self.index())
    }

    /// The server gave no session. `jitter` is random, from 0 to 1.
    pub fn handle_failed(&mut self, now: Moment, jitter: f64) {
        self.failed += 1;
        if self.failed == self.server_count {
            self.end_round(now, jitter);
        }
    }

    /// The server gave a session, and that has ended: the next round begins with it. `jitter` is
    /// random, from 0 to 1.
    pub fn handle_ended(&mut self, now: Moment, jitter: f64) {
        self.first = self.index();
        self.end_round(now, jitter);
    }

    const fn index(&self) -> usize {
        (self.first + self.failed) % self.server_count
    }

    fn end_round(&mut self, now: Moment, jitter: f64) {
        let began = self.began.take().unwrap_or(now);
        if SESSION_MIN <= now.since(began) {
            self.short_rounds = 0;
        }
        self.next_at = now.after(backoff(self.short_rounds, jitter));
        self.short_rounds = self.short_rounds.saturating_add(1);
        self.failed = 0;
    }
}

/// Full jitter: anything up to a limit that doubles.
fn backoff(short_rounds: u32, jitter: f64) -> Duration {
    let limit = BACKOFF_FROM.saturating_mul(1 << short_rounds.min(16));
    limit.min(BACKOFF_TO).mul_f64(jitter)
}

/// How many disk streams to announce for so many disks.
pub fn announcement(disk_count: u32) -> u32 {
    let most = u32::try_from(DISKS_MAX).expect("1,024");
    disk_count.saturating_add(SPARE_STREAMS).min(most)
}

/// What to say to a server. `clock` is now.
pub fn hello(
    machine: MachineId,
    remembered: SessionState,
    announced: u32,
    clock: WallTime,
) -> Hello {
    let highest_epoch = match planted!(OldEpochAccepted) {
        true => Level::default(),
        false => remembered.highest_epoch,
    };
    Hello {
        protocol: PROTOCOL,
        machine,
        highest_epoch,
        vault: remembered.vault,
        clock,
        disk_count: announced,
    }
}

/// The server's clock minus this machine's, if the server read its own in the middle of the round
/// trip. Unit: microseconds.
pub fn clock_offset(asked_at: WallTime, answered_at: WallTime, server: WallTime) -> i64 {
    let middle = asked_at.0.midpoint(answered_at.0);
    let offset = i64::try_from(i128::from(server.0) - i128::from(middle));
    offset.unwrap_or(0)
}

/// The answer to a hello.
///
/// # Errors
///
/// See [`AnswerError`]; the link is to be closed.
pub fn answer_of(message: ToAgent) -> Result<HelloAnswer, AnswerError> {
    match message {
        ToAgent::HelloAnswer(answer) if answer.protocol == PROTOCOL => Ok(answer),
        ToAgent::Refusal { reason, text } => Err(AnswerError::Refused { reason, text }),
        _ => Err(AnswerError::Unexpected),
    }
}

impl Admission {
    /// Checks an answer against what is remembered.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`]; the link is to be closed.
    pub fn check(answer: &HelloAnswer, remembered: SessionState) -> Result<Self, AnswerError> {
        let (offered, seen) = (answer.journal.level, remembered.highest_epoch);
        if let Some(wanted) = remembered.vault.filter(|wanted| *wanted != answer.vault) {
            let found = answer.vault;
            return Err(AnswerError::Vault { found, wanted });
        }
        if offered < seen && !planted!(OldEpochAccepted) {
            reached!(OldEpochRefused);
            return Err(AnswerError::OldEpoch { offered, seen });
        }
        let stated = answer.disks.iter().map(|disk| disk.complete_through);
        let stated = stated.fold(answer.highest_seq, Seq::max);
        let mark = Reservation::mark_after(stated).filter(|_| stated <= SEQ_MAX);
        let mark = mark.ok_or(AnswerError::Seq { stated })?;
        let pinned = SessionState {
            vault: Some(answer.vault),
            highest_epoch: offered,
        };
        Ok(Self {
            epoch: offered,
            remember: (pinned != remembered).then_some(pinned),
            stated,
            mark,
        })
    }

    /// What comes next. [`Step::Open`] is the last; the machine's order goes on above every `Seq`
    /// that the server knows of when it is returned.
    pub fn step(&self, order: &mut WriteOrder, now: Moment) -> Step {
        if let Some(state) = self.remember {
            return Step::Remember(state);
        }
        if !order.has_reserved_beyond(self.stated) {
            return Step::Reserve(self.mark);
        }
        Step::Open {
            epoch: self.epoch,
            lost: order.raise_above(self.stated, now),
        }
    }

    /// What was to be remembered is durable.
    pub const fn handle_remembered(&mut self) {
        self.remember = None;
    }
}

impl SessionState {
    /// What to remember once marks of a disk have spoken for `epoch`, because the server went on in
    /// a new journal. Never less than before.
    #[must_use]
    pub fn risen_to(self, epoch: Level) -> Self {
        if self.highest_epoch < epoch {
            reached!(EpochRose);
        }
        Self {
            highest_epoch: self.highest_epoch.max(epoch),
            ..self
        }
    }
}
