//! The replica's fence: a page blob's sequence number, raised by its writer, and conditional puts.
//!
//! The product has no replica yet; the model has the rules by itself. Two servers, one page. Versions
//! count what is committed of that page; the owner of the path commits, its successor goes on from there.
//! A request that was sent is carried out at most once, at any later time, also after its sender is
//! fenced or has given it up.

use stateright::{Model, Property};

const SERVERS: usize = 2;
/// A sequence number is level times this plus a counter.
const COUNTERS: u8 = 8;
const COUNTER_MAX: u8 = 3;
const VERSIONS_MAX: u8 = 3;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Replica {
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Puts are conditional on the number that their writer raised.
    pub(crate) puts_are_conditional: bool,
    /// The number is raised after every ambiguous result.
    pub(crate) raised_after_ambiguous: bool,
    /// The number is raised only when the path leads to the writer.
    pub(crate) raised_by_owner_only: bool,
    /// The number only rises.
    pub(crate) raised_with_max: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        puts_are_conditional: true,
        raised_after_ambiguous: true,
        raised_by_owner_only: true,
        raised_with_max: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    number: u8,
    content: u8,
    committed: u8,
    /// The server that the machine's path leads to.
    owner: usize,
    servers: [Server; SERVERS],
    /// Sent, and not carried out.
    sent: Vec<Request>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Server {
    phase: Phase,
    counter: u8,
    /// The newest version that it may put.
    version: u8,
    /// The newest version that it was told is put.
    applied: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    /// It has not read that the path leads to it, or read that it does not.
    Away,
    /// The path led to it when it looked.
    Leads,
    Raising,
    Ready,
    Putting,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Request {
    server: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Raise { to: u8 },
    Put { version: u8, number: u8 },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Commit,
    /// The path moves to the second server.
    TakeOver,
    ReadPath(usize),
    Raise(usize),
    Put(usize),
    /// The answer to what the server waits for arrives.
    Hear(usize),
    /// No answer: it may have been carried out, may yet be, or never.
    GiveUp(usize),
    ArriveLate(Request),
}

impl State {
    /// Carries a request out; whether its condition held.
    fn carry_out(&mut self, rules: &Rules, kind: Kind) -> bool {
        match kind {
            Kind::Raise { to } if rules.raised_with_max => self.number = self.number.max(to),
            Kind::Raise { to } => self.number = to,
            Kind::Put { version, number } => {
                if rules.puts_are_conditional && number != self.number {
                    return false;
                }
                self.content = version;
            }
        }
        true
    }

    fn sequence(&self, server: usize) -> u8 {
        let level = u8::try_from(server).expect("few servers") + 1;
        level * COUNTERS + self.servers[server].counter
    }
}

impl Model for Replica {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let away = Server {
            phase: Phase::Away,
            counter: 0,
            version: 0,
            applied: 0,
        };
        vec![State {
            number: 0,
            content: 0,
            committed: 0,
            owner: 0,
            servers: [away; SERVERS],
            sent: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.committed < VERSIONS_MAX {
            steps.push(Step::Commit);
        }
        if state.owner == 0 {
            steps.push(Step::TakeOver);
        }
        for (index, server) in state.servers.iter().enumerate() {
            match server.phase {
                Phase::Away => {
                    steps.push(Step::ReadPath(index));
                    if !self.rules.raised_by_owner_only && server.counter < COUNTER_MAX {
                        steps.push(Step::Raise(index));
                    }
                }
                Phase::Leads if server.counter < COUNTER_MAX => steps.push(Step::Raise(index)),
                Phase::Leads => (),
                Phase::Ready if server.applied < server.version => steps.push(Step::Put(index)),
                Phase::Ready => (),
                Phase::Raising | Phase::Putting => {
                    steps.extend([Step::Hear(index), Step::GiveUp(index)]);
                }
            }
        }
        steps.extend(state.sent.iter().map(|request| Step::ArriveLate(*request)));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Commit => {
                state.committed += 1;
                state.servers[state.owner].version = state.committed;
            }
            Step::TakeOver => {
                state.owner = 1;
                state.servers[1].version = state.committed;
            }
            Step::ReadPath(server) if state.owner == server => {
                state.servers[server].phase = Phase::Leads;
            }
            Step::ReadPath(_) => return None,
            Step::Raise(server) => {
                state.servers[server].counter += 1;
                state.servers[server].phase = Phase::Raising;
                let to = state.sequence(server);
                state.send(server, Kind::Raise { to });
            }
            Step::Put(server) => {
                state.servers[server].phase = Phase::Putting;
                let version = state.servers[server].version;
                let number = state.sequence(server);
                state.send(server, Kind::Put { version, number });
            }
            Step::Hear(server) => self.hear(&mut state, server),
            Step::GiveUp(server) => {
                let raised = state.servers[server].phase == Phase::Raising;
                let again = raised || self.rules.raised_after_ambiguous;
                let phase = if again { Phase::Away } else { Phase::Ready };
                state.servers[server].phase = phase;
            }
            Step::ArriveLate(request) => {
                state.sent.retain(|sent| *sent != request);
                state.carry_out(&self.rules, request.kind);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what the owner applied stays", |_, state: &State| {
                let owner = &state.servers[state.owner];
                owner.applied <= state.content
            }),
            Property::always("the owner can always write again", |_, state: &State| {
                let level = u8::try_from(state.owner).expect("few servers") + 1;
                state.number < (level + 1) * COUNTERS
            }),
            Property::sometimes("the second server applied all", |_, state: &State| {
                state.servers[1].applied == VERSIONS_MAX
            }),
            Property::sometimes("a late put found another number", |_, state: &State| {
                state.sent.iter().any(|sent| match sent.kind {
                    Kind::Put { number, .. } => number != state.number,
                    Kind::Raise { .. } => false,
                })
            }),
        ]
    }
}

impl State {
    fn send(&mut self, server: usize, kind: Kind) {
        self.sent.push(Request { server, kind });
        self.sent.sort_unstable();
    }
}

impl Replica {
    /// The request that the server waits for has been carried out, now if not before.
    fn hear(&self, state: &mut State, server: usize) {
        let waits = state.servers[server].phase;
        let number = state.sequence(server);
        let version = state.servers[server].version;
        let newest = state.sent.iter().rposition(|sent| sent.server == server);
        let request = newest
            .map(|at| state.sent[at])
            .filter(|sent| match sent.kind {
                Kind::Raise { to } => waits == Phase::Raising && to == number,
                Kind::Put { number: of, .. } => waits == Phase::Putting && of == number,
            });
        let Some(request) = request else {
            // It was carried out before its answer was waited for: what became of it is not known.
            let phase = if waits == Phase::Raising || self.rules.raised_after_ambiguous {
                Phase::Away
            } else {
                Phase::Ready
            };
            state.servers[server].phase = phase;
            return;
        };
        state.sent.retain(|sent| *sent != request);
        let held = state.carry_out(&self.rules, request.kind);
        let server = &mut state.servers[server];
        match request.kind {
            Kind::Raise { to } if state.number == to => server.phase = Phase::Ready,
            // 412, or a number above its own: it looks where the path leads.
            Kind::Raise { .. } => server.phase = Phase::Away,
            Kind::Put { .. } if !held => server.phase = Phase::Away,
            Kind::Put { version: put, .. } => {
                server.applied = put.min(version);
                server.phase = Phase::Ready;
            }
        }
    }
}
