//! A vault that fails on demand: for tests of its users, and for the simulation.
//!
//! [`wrap`] puts a layer between a vault's retries and its store. Faults are queued one by one, switched on
//! and off, or drawn from a seed; each is counted when it has *happened*, since a fault that never struck
//! proves nothing. Everything here is deterministic but for the order in which concurrent requests arrive.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use everpoint_units::ByteLen;
use futures::FutureExt as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use crate::backend::{Attempt, Backend, Comparison, Fault, Found, Landed, Part};
use crate::config::VaultConfig;
use crate::error::{Cause, SyncFailure};
use crate::name::{ObjectName, ObjectPrefix};
use crate::payload::Payload;
use crate::vault::{Page, Vault};

/// Requests that are made before a late create takes effect.
const LATE_REQUESTS: u32 = 3;

/// How one attempt at a create goes wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CreateFault {
    /// Refused, with no effect.
    Unavailable,
    /// Done, but the answer is lost.
    LostAnswer,
    /// No answer; done a few requests later, or when [`Faults::run_late`] is called.
    Late,
    /// Done twice, as a network that duplicates would; the second answer arrives.
    Duplicate,
    /// Not done, but answered with "exists"; the comparison then finds nothing.
    ExistsThenNotFound,
    /// Done, but the root turns out to have moved. Does not heal by itself if queued without end.
    RootMoved,
    /// Done, but a sync failed. Every later create fails alike.
    SyncFailed,
}

impl CreateFault {
    /// Those that a repetition heals.
    pub const HEALING: [Self; 6] = [
        Self::Unavailable,
        Self::LostAnswer,
        Self::Late,
        Self::Duplicate,
        Self::ExistsThenNotFound,
        Self::RootMoved,
    ];
}

/// The switches of a faulty vault. Clones switch the same vault.
#[derive(Clone)]
pub struct Faults {
    state: Arc<State>,
}

struct Faulty {
    inner: Arc<dyn Backend>,
    state: Arc<State>,
}

struct State {
    inner: Arc<dyn Backend>,
    switches: Mutex<Switches>,
    frozen: watch::Sender<bool>,
}

#[derive(Default)]
struct Switches {
    creates: VecDeque<CreateFault>,
    reads_count: u32,
    is_out: bool,
    random: Option<Random>,
    late: Vec<Late>,
    /// Names of which a create was told that they exist, though they may not.
    phantoms: HashSet<ObjectName>,
    failed_sync: Option<SyncFailure>,
    injected: BTreeMap<CreateFault, u64>,
    injected_reads: u64,
    seen_reads: u64,
}

struct Random {
    rng: SmallRng,
    per_mille: u32,
}

struct Late {
    requests_left: u32,
    name: ObjectName,
    payload: Payload,
}

/// The same vault with faults between, and the switches for them. `config` replaces the limits.
pub fn wrap(vault: &Vault, config: &VaultConfig) -> (Vault, Faults) {
    let mut made = None;
    let wrapped = vault.wrapped(config, |inner| {
        let state = Arc::new(State {
            inner: Arc::clone(&inner),
            switches: Mutex::default(),
            frozen: watch::Sender::new(false),
        });
        made = Some(Arc::clone(&state));
        Arc::new(Faulty { inner, state })
    });
    let state = made.expect("the vault was wrapped");
    (wrapped, Faults { state })
}

impl Faults {
    /// Lets the next attempts at a create fail like this, one after the other.
    pub fn queue_creates(&self, faults: impl IntoIterator<Item = CreateFault>) {
        self.state.lock().creates.extend(faults);
    }

    /// Lets the next `count` attempts at anything but a create be refused.
    pub fn queue_reads(&self, count: u32) {
        self.state.lock().reads_count += count;
    }

    /// Refuses everything while it is on.
    pub fn outage(&self, is_out: bool) {
        self.state.lock().is_out = is_out;
    }

    /// Answers nothing while it is on. A request that is dropped meanwhile has no effect.
    pub fn freeze(&self, is_frozen: bool) {
        self.state.frozen.send_replace(is_frozen);
    }

    /// From now on, lets so many of a thousand attempts fail, in any way that heals.
    ///
    /// # Panics
    ///
    /// If `per_mille` is more than a thousand.
    pub fn at_random(&self, seed: u64, per_mille: u32) {
        assert!(per_mille <= 1_000, "at most all attempts fail");
        self.state.lock().random = Some(Random {
            rng: SmallRng::seed_from_u64(seed),
            per_mille,
        });
    }

    /// Lets all late creates take effect now, and says how many there were.
    pub async fn run_late(&self) -> usize {
        let late = std::mem::take(&mut self.state.lock().late);
        let count = late.len();
        self.state.execute(late).await;
        count
    }

    /// How often this fault has struck.
    pub fn injected(&self, fault: CreateFault) -> u64 {
        self.state.lock().injected.get(&fault).copied().unwrap_or(0)
    }

    /// How many attempts at anything but a create there were.
    pub fn seen_reads(&self) -> u64 {
        self.state.lock().seen_reads
    }

    /// How many attempts at anything but a create were refused.
    pub fn injected_reads(&self) -> u64 {
        self.state.lock().injected_reads
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens before any request: the thaw is awaited, and late creates that are due take effect.
    async fn arrive(&self) {
        let mut frozen = self.frozen.subscribe();
        let thawed = frozen.wait_for(|is_frozen| !is_frozen).await;
        drop(thawed.expect("the sender lives in self"));
        let due = self.lock().due();
        self.execute(due).await;
    }

    async fn execute(&self, late: Vec<Late>) {
        for late in late {
            // Whatever comes of it, nobody waits for the answer.
            let outcome = self.inner.create(&late.name, &late.payload).await;
            tracing::debug!(name = %late.name, ?outcome, "a late create took effect");
        }
    }

    async fn read(&self) -> Result<(), Fault> {
        self.arrive().await;
        if self.lock().draw_read() {
            Err(injected())
        } else {
            Ok(())
        }
    }
}

impl Switches {
    fn due(&mut self) -> Vec<Late> {
        for late in &mut self.late {
            late.requests_left -= 1;
        }
        self.late
            .extract_if(.., |late| late.requests_left == 0)
            .collect()
    }

    fn draw_create(&mut self) -> Option<CreateFault> {
        let fault = if self.is_out {
            Some(CreateFault::Unavailable)
        } else {
            self.creates.pop_front().or_else(|| {
                let random = self.random.as_mut()?;
                let strikes = random.rng.random_ratio(random.per_mille, 1_000);
                let kinds = CreateFault::HEALING;
                strikes.then(|| kinds[random.rng.random_range(0..kinds.len())])
            })
        };
        if let Some(fault) = fault {
            *self.injected.entry(fault).or_default() += 1;
        }
        fault
    }

    fn draw_read(&mut self) -> bool {
        self.seen_reads += 1;
        let strikes = if self.is_out {
            true
        } else if 0 < self.reads_count {
            self.reads_count -= 1;
            true
        } else {
            self.random
                .as_mut()
                .is_some_and(|random| random.rng.random_ratio(random.per_mille, 1_000))
        };
        self.injected_reads += u64::from(strikes);
        strikes
    }
}

impl Faulty {
    async fn create(&self, name: &ObjectName, payload: &Payload) -> Result<Landed, Fault> {
        self.state.arrive().await;
        let fault = {
            let mut switches = self.state.lock();
            if let Some(failure) = &switches.failed_sync {
                return Err(Fault::SyncFailed(failure.clone()));
            }
            switches.draw_create()
        };
        let Some(fault) = fault else {
            return self.inner.create(name, payload).await;
        };
        match fault {
            CreateFault::Unavailable => return Err(Fault::NotDone(Cause::Injected)),
            CreateFault::Late => {
                self.state.lock().late.push(Late {
                    requests_left: LATE_REQUESTS,
                    name: name.clone(),
                    payload: payload.clone(),
                });
                return Err(injected());
            }
            CreateFault::ExistsThenNotFound => {
                self.state.lock().phantoms.insert(name.clone());
                return Ok(Landed::Exists);
            }
            CreateFault::LostAnswer
            | CreateFault::Duplicate
            | CreateFault::RootMoved
            | CreateFault::SyncFailed => {}
        }
        self.inner.create(name, payload).await?;
        match fault {
            CreateFault::Duplicate => self.inner.create(name, payload).await,
            CreateFault::RootMoved => Err(Fault::Unknown(Cause::RootMoved {
                root: PathBuf::from("injected"),
            })),
            CreateFault::SyncFailed => {
                let what = PathBuf::from(name.as_str());
                let failure = SyncFailure::new(what, &io::ErrorKind::Other.into());
                self.state.lock().failed_sync = Some(failure.clone());
                Err(Fault::SyncFailed(failure))
            }
            _ => Err(injected()),
        }
    }

    async fn compare(&self, name: &ObjectName, payload: &Payload) -> Result<Comparison, Fault> {
        self.state.read().await?;
        if self.state.lock().phantoms.remove(name) {
            return Ok(Comparison::Absent);
        }
        self.inner.compare(name, payload).await
    }
}

fn injected() -> Fault {
    Fault::Unknown(Cause::Injected)
}

impl Backend for Faulty {
    fn create<'a>(&'a self, name: &'a ObjectName, payload: &'a Payload) -> Attempt<'a, Landed> {
        self.create(name, payload).boxed()
    }

    fn compare<'a>(
        &'a self,
        name: &'a ObjectName,
        payload: &'a Payload,
    ) -> Attempt<'a, Comparison> {
        self.compare(name, payload).boxed()
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        part: Part,
        len_max: ByteLen,
    ) -> Attempt<'a, Option<Found>> {
        async move {
            self.state.read().await?;
            self.inner.read(name, part, len_max).await
        }
        .boxed()
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, Option<ByteLen>> {
        async move {
            self.state.read().await?;
            self.inner.head(name).await
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a ObjectPrefix,
        after: Option<&'a ObjectName>,
        count_max: NonZeroUsize,
    ) -> Attempt<'a, Page> {
        async move {
            self.state.read().await?;
            self.inner.list(prefix, after, count_max).await
        }
        .boxed()
    }

    fn list_prefixes<'a>(&'a self, prefix: &'a ObjectPrefix) -> Attempt<'a, Vec<ObjectPrefix>> {
        async move {
            self.state.read().await?;
            self.inner.list_prefixes(prefix).await
        }
        .boxed()
    }

    fn settle<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, bool> {
        async move {
            self.state.read().await?;
            self.inner.settle(name).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
