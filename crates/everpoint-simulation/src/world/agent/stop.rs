//! Stops in good order, and what else becomes of an agent's own state: lost, or as it once was.

use everpoint_agent::start_core::{DiskStop, disk_stop};
use everpoint_format::DiskPosition;

use super::*;

/// How long a stop waits for everything to be committed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(5);

/// A stop that goes on.
pub(crate) struct Stopping {
    until: Moment,
    down: Duration,
    touched: bool,
    /// Guests have ended, and disks are drained.
    draining: bool,
    /// What each disk answered.
    drained: Vec<Option<Option<DiskPosition>>>,
}

impl World<'_> {
    /// An agent is told to stop.
    pub(crate) fn stop_agent(&mut self, machine: usize, down: Duration, touched: bool) -> bool {
        let until = self.schedule.now().after(PATIENCE);
        let agent = &mut self.agents[machine];
        if agent.life.is_none() || agent.stopping.is_some() {
            return false;
        }
        agent.stopping = Some(Stopping {
            until,
            down,
            touched,
            draining: false,
            drained: vec![None; agent.disks.len()],
        });
        self.agent_after(machine, Duration::ZERO, AgentEvent::Stop);
        true
    }

    pub(super) fn stop_goes_on(&mut self, machine: usize) {
        let now = self.schedule.now();
        let agent = &mut self.agents[machine];
        let (Some(stopping), Some(life)) = (&mut agent.stopping, &mut agent.life) else {
            return;
        };
        let guest = |waiting: &Waiting| matches!(waiting, Waiting::Guest { .. });
        let busy = life
            .disks
            .iter()
            .any(|disk| disk.requests.values().any(guest));
        if !stopping.draining && !busy {
            stopping.draining = true;
            // No more statements of idle disks: where a disk stands must not move behind its answer.
            life.order.silence();
            for (disk, protected) in life.disks.iter_mut().enumerate() {
                protected.core.handle_drain();
                agent.disks[disk].flush();
            }
            self.drive_all(machine);
        }
        let stopping = self.agents[machine].stopping.as_ref();
        let Some(stopping) = stopping else { return };
        let done = stopping.drained.iter().all(Option::is_some);
        if done || stopping.until <= now {
            self.stopped(machine);
        } else {
            self.agent_after(machine, LOOK, AgentEvent::Stop);
        }
    }

    pub(super) fn drained(&mut self, machine: usize, disk: usize, tail: Option<DiskPosition>) {
        if let Some(stopping) = &mut self.agents[machine].stopping {
            stopping.drained[disk] = Some(tail);
        }
    }

    /// What the stop came to is written down, and the process ends.
    fn stopped(&mut self, machine: usize) {
        let agent = &mut self.agents[machine];
        let Some(stopping) = agent.stopping.take() else {
            return;
        };
        let disks = agent.disks.iter().zip(&stopping.drained);
        let clean = disks.map(|(disk, tail)| {
            let source: Result<Option<u64>, ()> = Ok(Some(disk.version()));
            match disk_stop(tail.flatten(), stopping.draining, source) {
                DiskStop::Clean(stood) => Some(stood),
                DiskStop::Unproven | DiskStop::Undrained => None,
            }
        });
        agent.state.clean = clean.collect();
        let count = agent.state.clean.iter().flatten().count();
        self.tell(|| format!("agent {machine} stops, {count} disks in good order"));
        if let Some(link) = self.life(machine).phase.link() {
            self.close(link, Side::Agent, CloseReason::Shutdown);
        }
        self.agents[machine].life = None;
        self.agents[machine].life_no += 1;
        self.agent_after(machine, stopping.down, AgentEvent::Start);
        if stopping.touched {
            self.agents[machine].contents += 1;
            let content = self.agents[machine].contents;
            let from = self.draws.guest.below(self.plan.shape.sectors);
            self.disk_changes(machine, 0, extent(from, from + 1), content);
        }
    }

    /// What the agent has written down is gone.
    pub(crate) fn lose_agent_state(&mut self, machine: usize) {
        self.agents[machine].state = StateDir::default();
        self.oracle.of(machine).rolled_back();
    }

    /// Takes a picture of a machine, to come back to it.
    pub(crate) fn remember_agent(&mut self, machine: usize) {
        let agent = &mut self.agents[machine];
        agent.remembered = Some((agent.state.clone(), agent.disks.clone()));
    }

    /// A machine is what it once was: its agent's state, and its disks too if they are. The agent does
    /// not run.
    pub(crate) fn roll_agent_back(&mut self, machine: usize, disks: bool) -> bool {
        let now = self.schedule.now();
        let agent = &mut self.agents[machine];
        let Some((state, then)) = agent.remembered.take() else {
            return false;
        };
        agent.state = state;
        let truth = self.oracle.of(machine);
        truth.rolled_back();
        truth.unwound |= disks;
        if disks {
            for (disk, then) in then.iter().enumerate() {
                for (extent, content) in agent.disks[disk].differences(then) {
                    truth.changed(disk, extent, content, now);
                }
            }
            agent.disks = then;
        }
        true
    }
}
