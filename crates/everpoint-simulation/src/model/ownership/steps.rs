//! What may happen next, and what happens then: the ownership world as a model.

use std::sync::Arc;

use stateright::{Model, Property};

use super::{Boot, State, World, properties};

/// One step. Numbers are indexes of machines, boots, servers, journals, seals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Write {
        machine: u8,
    },
    Connect {
        machine: u8,
        boot: u8,
    },
    Send {
        machine: u8,
    },
    HearCached {
        machine: u8,
    },
    HearCommitted {
        machine: u8,
        boot: u8,
    },
    CrashAgents,
    Freeze {
        boot: u8,
    },
    /// A frozen object arrives; nobody hears of it.
    ArriveLate {
        boot: u8,
        number: u8,
    },
    Store {
        boot: u8,
        number: u8,
    },
    Answer {
        boot: u8,
    },
    Crash {
        boot: u8,
    },
    CrashAndLose {
        boot: u8,
    },
    Restart {
        server: u8,
        above_own_only: bool,
    },
    ChooseSeal {
        boot: u8,
        machine: u8,
    },
    PutSeal {
        boot: u8,
        seal: u8,
    },
    Own {
        boot: u8,
        machine: u8,
    },
    Release {
        boot: u8,
        machine: u8,
        to: Option<u8>,
    },
    BeginRotation {
        boot: u8,
    },
    FinishRotation {
        boot: u8,
    },
    Fold {
        machine: u8,
    },
    CreateEnd {
        journal: u8,
    },
    Delete {
        journal: u8,
        number: u8,
    },
    Snapshot {
        boot: u8,
    },
    Resume {
        life_before_goes_on: bool,
    },
    BeginReading {
        machine: u8,
    },
    ReadOn,
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.first_state()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        for machine in 0..self.machines {
            self.machine_steps(state, machine, steps);
        }
        for (boot, known) in (0..).zip(&state.boots) {
            self.late_steps(state, boot, known, steps);
            if known.serves() {
                self.boot_steps(state, boot, known, steps);
            }
        }
        self.world_steps(state, steps);
        if 0 < state.left.deletions {
            self.deletion_steps(state, steps);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        if !self.take_step(&mut state, step) {
            return None;
        }
        for machine in 0..self.machines {
            for boot in &state.boots {
                let writes = self.acknowledged_writes(boot, machine);
                state.acknowledged[usize::from(machine)] |= writes;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl World {
    fn machine_steps(&self, state: &State, machine: u8, steps: &mut Vec<Step>) {
        let agent = &state.agents[usize::from(machine)];
        if agent.written < self.writes {
            steps.push(Step::Write { machine });
        }
        for (boot, known) in (0..).zip(&state.boots) {
            if self.may_connect(state, machine, boot) {
                steps.push(Step::Connect { machine, boot });
            }
            if agent.dirty & self.acknowledged_writes(known, machine) != 0 {
                steps.push(Step::HearCommitted { machine, boot });
            }
        }
        if agent.boot.is_some() {
            steps.extend([Step::Send { machine }, Step::HearCached { machine }]);
        }
        if 0 < state.left.deletions && self.may_fold(state, machine) {
            steps.push(Step::Fold { machine });
        }
        if 0 < state.left.readers && state.reader.is_none() {
            steps.push(Step::BeginReading { machine });
        }
    }

    /// What reaches the store by itself, whether its sender lives or not.
    fn late_steps(&self, state: &State, boot: u8, known: &Boot, steps: &mut Vec<Step>) {
        let journal = &state.journals[usize::from(known.journal)];
        for number in 1..=known.frozen_count() {
            if journal.at(number).is_none() {
                steps.push(Step::ArriveLate { boot, number });
            }
            if known.serves() && !known.is_stored(number) {
                steps.push(Step::Store { boot, number });
            }
        }
        for (seal, frozen) in (0..).zip(&known.seals) {
            let journal = &state.journals[usize::from(frozen.journal)];
            if journal.at(frozen.number).is_none() {
                steps.push(Step::PutSeal { boot, seal });
            }
        }
    }

    fn boot_steps(&self, state: &State, boot: u8, known: &Boot, steps: &mut Vec<Step>) {
        let left = &state.left;
        if known.asked.is_some() {
            steps.push(Step::Answer { boot });
        }
        let room = known.frozen_count() < self.objects;
        if room && known.wants_freeze() {
            steps.push(Step::Freeze { boot });
        }
        if 0 < left.crashes {
            steps.push(Step::Crash { boot });
        }
        if 0 < left.losses {
            steps.push(Step::CrashAndLose { boot });
        }
        if 0 < left.resumes + left.clones && state.snapshot.is_none() {
            steps.push(Step::Snapshot { boot });
        }
        if known.rotating.is_some() {
            steps.push(Step::FinishRotation { boot });
            return;
        }
        let settled = u64::from(known.frozen_count()) == known.commit.committed().0;
        if 0 < left.rotations && settled && self.may_open(state) {
            steps.push(Step::BeginRotation { boot });
        }
        let may_release = room && known.commit.in_flight() < u64::from(self.in_flight);
        for machine in 0..self.machines {
            if !known.owned[usize::from(machine)] {
                self.taking_steps(state, boot, machine, steps);
            } else if may_release {
                self.release_steps(state, boot, machine, steps);
            }
        }
    }

    fn taking_steps(&self, state: &State, boot: u8, machine: u8, steps: &mut Vec<Step>) {
        let path = &state.paths.0[usize::from(machine)];
        let own = state.boots[usize::from(boot)].journal;
        if path.last() == own {
            if self.may_own(state, boot, machine) {
                steps.push(Step::Own { boot, machine });
            }
        } else if 0 < state.left.seals && self.may_succeed(state, machine, path.last(), own) {
            steps.push(Step::ChooseSeal { boot, machine });
        }
    }

    fn release_steps(&self, state: &State, boot: u8, machine: u8, steps: &mut Vec<Step>) {
        let known = &state.boots[usize::from(boot)];
        let waits = known.pending.iter().any(|block| block.machine == machine);
        if self.rules.release_comes_last && waits {
            return;
        }
        if 0 < state.left.closings {
            let to = None;
            steps.push(Step::Release { boot, machine, to });
        }
        if state.left.releases == 0 {
            return;
        }
        for server in &state.servers {
            let Some(other) = server.boot.filter(|other| *other != boot) else {
                continue;
            };
            let journal = state.boots[usize::from(other)].journal;
            if journal != known.journal && self.may_succeed(state, machine, known.journal, journal)
            {
                let to = Some(journal);
                steps.push(Step::Release { boot, machine, to });
            }
        }
    }

    fn world_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if state.reader.is_some() {
            steps.push(Step::ReadOn);
        }
        if 0 < state.left.agent_crashes {
            steps.push(Step::CrashAgents);
        }
        if self.may_open(state) {
            for server in 0..self.servers {
                let restart = |above_own_only| Step::Restart {
                    server,
                    above_own_only,
                };
                steps.push(restart(false));
                if self.rules.levels_rise {
                    steps.push(restart(true));
                }
            }
        }
        if state.snapshot.is_some() {
            let resume = |life_before_goes_on| Step::Resume {
                life_before_goes_on,
            };
            let ways = [(state.left.resumes, false), (state.left.clones, true)];
            let left = ways.iter().filter(|(left, _)| 0 < *left);
            steps.extend(left.map(|(_, goes_on)| resume(*goes_on)));
        }
    }

    fn deletion_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (journal, stored) in (0..).zip(&state.journals) {
            let may_delete = self.may_delete(state, journal);
            if self.rules.end_first && may_delete && stored.holds_data() && stored.end.is_none() {
                steps.push(Step::CreateEnd { journal });
            }
            let begun = if self.rules.end_first {
                stored.end.is_some()
            } else {
                may_delete
            };
            if begun {
                let numbers = (1..=stored.top()).filter(|number| stored.data(*number).is_some());
                steps.extend(numbers.map(|number| Step::Delete { journal, number }));
            }
        }
    }

    fn may_open(&self, state: &State) -> bool {
        state.journals.len() < usize::from(self.journals)
    }

    /// Carries one step out; `false` when nothing came of it.
    fn take_step(&self, state: &mut State, step: Step) -> bool {
        match step {
            Step::Write { machine } => self.write(state, machine),
            Step::Connect { machine, boot } => self.connect(state, machine, boot),
            Step::Send { machine } => return self.send(state, machine),
            Step::HearCached { machine } => return self.hear_cached(state, machine),
            Step::HearCommitted { machine, boot } => self.hear_committed(state, machine, boot),
            Step::CrashAgents => {
                state.left.agent_crashes -= 1;
                self.crash_agents(state);
            }
            Step::Freeze { boot } => {
                Arc::make_mut(&mut state.boots[usize::from(boot)]).freeze(None)
            }
            Step::ArriveLate { boot, number } => self.arrive_late(state, boot, number),
            Step::Store { boot, number } => {
                self.store(state, boot, number);
                self.read_paths(state);
            }
            Step::Answer { boot } => self.answer(state, boot),
            Step::PutSeal { boot, seal } => return self.put_seal(state, boot, seal),
            Step::Own { boot, machine } => self.own(state, boot, machine),
            Step::FinishRotation { boot } => self.finish_rotation(state, boot),
            Step::Fold { machine } => self.fold(state, machine),
            Step::CreateEnd { journal } => self.create_end(state, journal),
            Step::Snapshot { boot } => self.snapshot(state, boot),
            Step::ReadOn => self.read_on(state),
            bounded => self.take_bounded_step(state, bounded),
        }
        true
    }

    /// Steps that a world has a limited number of.
    fn take_bounded_step(&self, state: &mut State, step: Step) {
        match step {
            Step::Crash { boot } => {
                state.left.crashes -= 1;
                self.kill(state, boot);
            }
            Step::CrashAndLose { boot } => {
                state.left.losses -= 1;
                let server = state.boots[usize::from(boot)].server;
                state.servers[usize::from(server)].cache_log.clear();
                self.kill(state, boot);
            }
            Step::Restart {
                server,
                above_own_only,
            } => self.restart(state, server, above_own_only),
            Step::ChooseSeal { boot, machine } => {
                state.left.seals -= 1;
                self.choose_seal(state, boot, machine);
            }
            Step::Release { boot, machine, to } => {
                match to {
                    Some(_) => state.left.releases -= 1,
                    None => state.left.closings -= 1,
                }
                self.release(state, boot, machine, to);
            }
            Step::BeginRotation { boot } => {
                state.left.rotations -= 1;
                self.begin_rotation(state, boot);
            }
            Step::Delete { journal, number } => {
                state.left.deletions -= 1;
                self.delete(state, journal, number);
            }
            Step::Resume {
                life_before_goes_on,
            } => {
                match life_before_goes_on {
                    true => state.left.clones -= 1,
                    false => state.left.resumes -= 1,
                }
                self.resume(state, life_before_goes_on);
            }
            Step::BeginReading { machine } => {
                state.left.readers -= 1;
                self.begin_reading(state, machine);
            }
            other => unreachable!("{other:?} is not bounded"),
        }
    }

    fn arrive_late(&self, state: &mut State, boot: u8, number: u8) {
        let boot = Arc::clone(&state.boots[usize::from(boot)]);
        let object = &boot.frozen[usize::from(number) - 1];
        Arc::make_mut(&mut state.journals[usize::from(boot.journal)]).create(number, object);
        self.read_paths(state);
    }
}
