//! Connections: messages of a stream arrive whole and in order, or not at all; streams do not wait for
//! each other; each side learns of the end in its own time.

use std::collections::BTreeMap;

use bytes::Bytes;
use everpoint_transport::CloseReason;
use everpoint_units::{DiskId, Moment};
use everpoint_wire::{Compare, Hello, ToAgent};

use super::faults::Node;

/// Which connection, counted from the first.
pub(crate) type LinkId = usize;

/// One end of a connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Side {
    Agent,
    Server,
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Hello(Hello),
    /// The answer to the hello.
    Greeting(ToAgent),
    OpenDisk(DiskId),
    Block(DiskId, Bytes),
    Compare(DiskId, Compare),
    /// What the server says on a disk's stream.
    Said(DiskId, ToAgent),
}

impl Message {
    /// Which stream it travels on: a disk's, or the connection's own.
    pub(crate) const fn stream(&self) -> Option<DiskId> {
        match self {
            Self::Hello(_) | Self::Greeting(_) => None,
            Self::OpenDisk(disk)
            | Self::Block(disk, _)
            | Self::Compare(disk, _)
            | Self::Said(disk, _) => Some(*disk),
        }
    }
}

/// A connection of an agent with a server.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) machine: usize,
    pub(crate) server: usize,
    /// Which life of the agent and of the server it belongs to.
    pub(crate) agent_life: u32,
    pub(crate) server_life: u32,
    pub(crate) open_at_agent: bool,
    pub(crate) open_at_server: bool,
    /// Nothing arrives at that side any more.
    deaf: [bool; 2],
    /// It was lost: both sides find out.
    pub(crate) lost: bool,
    /// The last arrival on its way to each side on each stream: later ones do not overtake it.
    last: BTreeMap<(Side, Option<DiskId>), Moment>,
}

impl Link {
    /// A new connection.
    pub(crate) const fn new(
        (machine, agent_life): (usize, u32),
        (server, server_life): (usize, u32),
    ) -> Self {
        Self {
            machine,
            server,
            agent_life,
            server_life,
            open_at_agent: true,
            open_at_server: true,
            deaf: [false; 2],
            lost: false,
            last: BTreeMap::new(),
        }
    }

    /// When a message that would be there at `at` arrives, behind those before it on its stream.
    pub(crate) fn arrival(&mut self, to: Side, stream: Option<DiskId>, at: Moment) -> Moment {
        let last = self.last.entry((to, stream)).or_default();
        *last = at.max(Moment(last.0 + 1));
        *last
    }

    /// When the end of the connection arrives, behind everything.
    pub(crate) fn end_arrival(&self, to: Side, at: Moment) -> Moment {
        let before = self.last.iter().filter(|((side, _), _)| *side == to);
        before.fold(at, |at, (_, last)| at.max(Moment(last.0 + 1)))
    }

    /// Who is at a side.
    pub(crate) const fn node(&self, side: Side) -> Node {
        match side {
            Side::Agent => Node::Agent(self.machine),
            Side::Server => Node::Server(self.server),
        }
    }

    /// Nothing arrives at a side any more.
    pub(crate) const fn deafen(&mut self, side: Side) {
        self.deaf[side as usize] = true;
    }

    /// Whether something can still arrive at a side.
    pub(crate) const fn reaches(&self, side: Side) -> bool {
        !self.deaf[side as usize]
    }

    /// Whether a side still listens.
    pub(crate) const fn is_open(&self, side: Side) -> bool {
        match side {
            Side::Agent => self.open_at_agent,
            Side::Server => self.open_at_server,
        }
    }

    /// A side listens no more; false if it did not.
    pub(crate) const fn close(&mut self, side: Side) -> bool {
        let open = match side {
            Side::Agent => &mut self.open_at_agent,
            Side::Server => &mut self.open_at_server,
        };
        std::mem::replace(open, false)
    }
}

impl Side {
    /// The other one.
    #[must_use]
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Agent => Self::Server,
            Self::Server => Self::Agent,
        }
    }
}

/// Why a connection ended, as a side hears it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// The other side closed it.
    Closed(CloseReason),
    /// Nothing comes any more.
    Lost,
}
