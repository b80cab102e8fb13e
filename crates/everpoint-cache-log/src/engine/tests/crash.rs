//! Crashes at any operation, in any order of steps: everything acknowledged is recovered, in order,
//! and nothing that was not appended; no file is ever over the quota. The oracle is a list.

use std::collections::VecDeque;

use super::*;

const SEEDS: u64 = 400;
const STEPS: usize = 250;

/// What must be true of one boot's records, in the order of `append`.
#[derive(Default)]
struct Boot {
    payloads: Vec<Bytes>,
    /// Positions of the acknowledged ones, a prefix.
    acked: Vec<LogPosition>,
    /// So many of them were settled.
    settled: usize,
    pending: VecDeque<Append>,
}

/// One history: a disk, the running log, the oracle.
struct World {
    random: u64,
    storage: MemoryStorage,
    config: CacheLogConfig,
    engine: Arc<Engine>,
    in_flight: Option<Batch>,
    boots: BTreeMap<u64, Boot>,
    level: u64,
    next_id: u64,
    seen: Seen,
}

/// What the histories went through; each must have happened, or the test proves little.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    acks: u64,
    deaths: u64,
    power_cuts: u64,
    deaths_in_recovery: u64,
    lost_unacked: u64,
    recovered_unacked: u64,
    poisonings: u64,
    out_of_space: u64,
    recycled: u64,
    marks: u64,
    reads: u64,
    late_commits: u64,
}

#[test]
fn whatever_was_acknowledged_survives_and_nothing_else_appears() {
    let mut seen = Seen::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.crash();
        seen.add(&world.seen);
    }
    for (what, count) in seen.counts() {
        assert!(0 < count, "no history had {what}: {seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history_twice() {
    let history = |seed| {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        (world.storage.operations(), world.seen.counts())
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7).0, history(8).0);
}

impl World {
    fn new(seed: u64) -> Self {
        let storage = MemoryStorage::new(seed);
        let config = config();
        let (engine, _) = open(&storage, &config, 1).expect("an empty directory opens");
        let mut world = Self {
            random: seed ^ 0x5EED,
            storage,
            config,
            engine,
            in_flight: None,
            boots: BTreeMap::new(),
            level: 1,
            next_id: 1,
            seen: Seen::default(),
        };
        world.boots.insert(1, Boot::default());
        world
    }

    fn step(&mut self) {
        match self.draw(100) {
            0..30 => self.append(),
            30..45 => {
                self.engine.fill();
            }
            45..65 => self.write(),
            65..80 => self.keep_files(),
            80..84 => self.mark(),
            84..90 => self.settle(),
            90..93 => self.read(),
            93..95 => self.engine.retry_space(),
            95..98 => self.break_something(),
            _ => self.crash(),
        }
        self.collect();
        assert!(self.storage.total_len() <= QUOTA, "over the quota");
        if self.storage.is_dead() {
            self.seen.deaths += 1;
            self.crash();
        } else if self.engine.stage() == Stage::Stopped {
            self.seen.poisonings += 1;
            self.finish_late();
            self.crash();
        }
    }

    fn append(&mut self) {
        let len = match self.draw(20) {
            0 => 40_000,
            1..4 => 9_000,
            _ => 600,
        };
        let len = usize::try_from(self.draw(len)).expect("small");
        let (id, level) = (self.next_id, self.level);
        self.next_id += 1;
        let append = append(&self.engine, id, len);
        let boot = self.boots.get_mut(&level).expect("the running boot");
        boot.payloads.push(payload(id, len));
        boot.pending.push_back(append);
    }

    /// Takes a batch, or commits the one that was taken; steps between the two are what a second
    /// thread does while the first one syncs.
    fn write(&mut self) {
        let Some(batch) = self.in_flight.take() else {
            self.in_flight = self.engine.next_batch();
            return;
        };
        if let Err(CommitFault::OutOfSpace(batch)) = self.engine.commit(batch) {
            self.seen.out_of_space += 1;
            self.in_flight = Some(*batch);
        }
    }

    /// A batch whose sync ends well after the log has failed elsewhere is not acknowledged.
    fn finish_late(&mut self) {
        if let Some(batch) = self.in_flight.take() {
            let acks = self.seen.acks;
            assert!(matches!(
                self.engine.commit(batch),
                Err(CommitFault::Poisoned)
            ));
            self.collect();
            assert_eq!(self.seen.acks, acks, "acknowledged after a failure");
            self.seen.late_commits += 1;
        }
    }

    fn keep_files(&mut self) {
        let live = self.engine.lock().space.live.len();
        self.engine.keep_files();
        let state = self.engine.lock();
        self.seen.recycled += u64::from(state.space.live.len() < live);
        self.seen.out_of_space += u64::from(state.space.is_denied());
    }

    fn mark(&mut self) {
        if self.in_flight.is_none() {
            self.in_flight = self.engine.mark();
            self.seen.marks += u64::from(self.in_flight.is_some());
        }
    }

    /// Settles some of what was acknowledged, oldest first.
    fn settle(&mut self) {
        let count = usize::try_from(self.draw(40)).expect("small");
        let unsettled = |boot: &&mut Boot| boot.settled < boot.acked.len();
        if let Some(boot) = self.boots.values_mut().find(unsettled) {
            boot.settled = (boot.settled + count).min(boot.acked.len());
            if let Some(newest) = boot.settled.checked_sub(1) {
                self.engine.settle(boot.acked[newest]);
            }
        }
    }

    /// Reads from some unsettled acknowledged record to the end of what is synced.
    fn read(&mut self) {
        let unsettled = |boot: &&Boot| boot.settled < boot.acked.len();
        let Some(boot) = self.boots.values().find(unsettled) else {
            return;
        };
        let mut reader = LogReader::new(Arc::clone(&self.engine), boot.acked[boot.settled], None);
        for (position, payload) in boot.acked.iter().zip(&boot.payloads).skip(boot.settled) {
            match reader.next_record() {
                Ok(Some(record)) => {
                    assert_eq!((record.position, &record.payload), (*position, payload));
                    self.seen.reads += 1;
                }
                Ok(None) => panic!("an acknowledged record is not readable"),
                Err(_) if self.storage.is_dead() => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn break_something(&mut self) {
        let at = Some(self.storage.operations() + 1 + self.draw(12));
        let faults = match self.draw(10) {
            0..5 => Faults {
                dies_at: at,
                ..Faults::default()
            },
            5 => Faults {
                sync_fails_at: at,
                ..Faults::default()
            },
            6 => Faults {
                write_fails_at: at,
                ..Faults::default()
            },
            7 => Faults {
                capacity: Some(self.storage.total_len()),
                ..Faults::default()
            },
            8 => Faults {
                no_space_for_writes: true,
                ..Faults::default()
            },
            _ => Faults::default(),
        };
        self.storage.set_faults(faults);
    }

    /// Takes the answers that have come; they come in the order of `append`.
    fn collect(&mut self) {
        let boot = self.boots.get_mut(&self.level).expect("the running boot");
        while let Some(append) = boot.pending.front_mut() {
            match append.answer() {
                Some(Ok(appended)) => {
                    assert!(boot.acked.last() < Some(&appended.position()));
                    boot.acked.push(appended.position());
                    self.seen.acks += 1;
                }
                Some(Err(_)) => return,
                None => break,
            }
            boot.pending.pop_front();
        }
        let late = |append: &mut Append| matches!(append.answer(), Some(Ok(_)));
        assert!(!boot.pending.iter_mut().any(late), "answered out of order");
    }

    /// The process or the machine goes; the next boots open the log until one lives through it.
    fn crash(&mut self) {
        self.in_flight = None;
        loop {
            if self.draw(2) == 0 {
                self.storage.kill();
            } else {
                self.storage.cut_power();
                self.seen.power_cuts += 1;
            }
            if self.draw(4) == 0 {
                let at = self.storage.operations() + 1 + self.draw(60);
                self.storage.set_faults(Faults {
                    dies_at: Some(at),
                    ..Faults::default()
                });
            }
            self.level += 1;
            match self.reopen() {
                Ok(()) => break,
                Err(ReadFailed) => {
                    assert!(self.storage.is_dead(), "recovery failed on a sound disk");
                    self.seen.deaths_in_recovery += 1;
                }
            }
        }
        self.boots.insert(self.level, Boot::default());
    }

    fn reopen(&mut self) -> Result<(), ReadFailed> {
        let (engine, boots) = match open(&self.storage, &self.config, self.level) {
            Ok(opened) => opened,
            Err(OpenError::File { .. } | OpenError::Storage { .. }) => return Err(ReadFailed),
            Err(error) => panic!("level {}: {error}", self.level),
        };
        let mut survivors = survivors(&engine, &boots)?;
        for (level, boot) in &mut self.boots {
            let survived = survivors.remove(level).unwrap_or_default();
            boot.recover(survived, &mut self.seen);
        }
        assert!(survivors.is_empty(), "a boot was invented");
        self.boots.retain(|_, boot| !boot.payloads.is_empty());
        self.find_positions(&engine, &boots)?;
        self.engine = engine;
        Ok(())
    }

    /// What was recovered counts as acknowledged: the server states it to the agents.
    fn find_positions(
        &mut self,
        engine: &Arc<Engine>,
        boots: &[RecoveredBoot],
    ) -> Result<(), ReadFailed> {
        for recovered in boots {
            let level = recovered.journal.level.0;
            let boot = self.boots.get_mut(&level).expect("checked above");
            let end = Some(recovered.last.file_no().next());
            let mut reader = LogReader::new(Arc::clone(engine), recovered.first, end);
            boot.acked.clear();
            while let Some(record) = reader.next_record().map_err(|_| ReadFailed)? {
                boot.acked.push(record.position);
            }
            assert_eq!(boot.acked.len(), boot.payloads.len());
            assert_eq!(recovered.block_count, boot.acked.len() as u64);
            assert_eq!(boot.acked.first(), Some(&recovered.first));
            assert_eq!(boot.acked.last(), Some(&recovered.last));
        }
        Ok(())
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }
}

impl Boot {
    /// Compares with what survived, and goes on with that.
    fn recover(&mut self, survived: Vec<Bytes>, seen: &mut Seen) {
        self.pending.clear();
        let Some(oldest) = survived.first() else {
            assert_eq!(self.settled, self.acked.len(), "acknowledged and lost");
            self.payloads.clear();
            return;
        };
        let start = self.payloads.iter().position(|payload| payload == oldest);
        let start = start.expect("a record was invented");
        assert!(start <= self.settled, "acknowledged, not settled, and lost");
        let end = start + survived.len();
        assert!(self.acked.len() <= end, "acknowledged and lost");
        assert!(end <= self.payloads.len(), "records were invented");
        assert_eq!(self.payloads[start..end], survived, "not what was appended");
        seen.recovered_unacked += (end - self.acked.len()) as u64;
        seen.lost_unacked += (self.payloads.len() - end) as u64;
        self.payloads = survived;
        self.settled -= start;
        self.acked.clear();
    }
}

impl Seen {
    fn counts(&self) -> [(&'static str, u64); 12] {
        [
            ("acknowledged records", self.acks),
            ("deaths at an operation", self.deaths),
            ("power cuts", self.power_cuts),
            ("deaths in recovery", self.deaths_in_recovery),
            ("lost records", self.lost_unacked),
            (
                "recovered records without an answer",
                self.recovered_unacked,
            ),
            ("poisonings", self.poisonings),
            ("full file systems", self.out_of_space),
            ("recycled files", self.recycled),
            ("marks", self.marks),
            ("reads", self.reads),
            ("commits after a failure", self.late_commits),
        ]
    }

    fn add(&mut self, other: &Self) {
        self.acks += other.acks;
        self.deaths += other.deaths;
        self.power_cuts += other.power_cuts;
        self.deaths_in_recovery += other.deaths_in_recovery;
        self.lost_unacked += other.lost_unacked;
        self.recovered_unacked += other.recovered_unacked;
        self.poisonings += other.poisonings;
        self.out_of_space += other.out_of_space;
        self.recycled += other.recycled;
        self.marks += other.marks;
        self.reads += other.reads;
        self.late_commits += other.late_commits;
    }
}
