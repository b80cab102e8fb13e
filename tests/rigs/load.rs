//! A guest that writes: several connections, many requests in flight that overlap on purpose, in bursts.
//!
//! ```text
//! draw a request ──▶ its burst has begun? ──▶ not held? ──▶ send ──▶ answer, measured
//! ```
//!
//! Nothing here keeps two writes apart: where they overlap, the disk alone decides which is the later one. A
//! rate is kept in bursts, so that the queues are full for a while instead of never.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_nbd::NbdAddress;
use everpoint_units::ByteOffset;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::rigs::connection::{Connection, Request, Sent};

/// Unit: bytes.
const SECTOR: u64 = 512;
/// Length of the pool that payloads are cut from: half text, half noise, in stretches. Unit: bytes.
const POOL_LEN: usize = 16 << 20;
const STRETCH_LEN: usize = 16 << 10;
/// What `mixed` is aligned to. Unit: bytes.
const MIXED_STEP: u64 = 4 << 10;
/// How often a burst begins.
const BURST_EVERY: Duration = Duration::from_millis(1_000 / BURSTS_A_SECOND);
const BURSTS_A_SECOND: u64 = 4;

/// What the load is like.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    /// The same seed draws the same requests; how they interleave differs.
    pub seed: u64,
    pub connections: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Unit: bytes a second; none: as fast as the disk.
    pub rate_max: Option<u64>,
    /// Shortest and longest request; short ones are more likely. Unit: bytes.
    pub len_min: u64,
    pub len_max: u64,
    /// One request in how many is a write of zeroes; 0: none.
    pub zero_one_in: u32,
    /// One request in how many is a discard; 0: none.
    pub discard_one_in: u32,
    /// Half of the requests fall into so much of the disk's beginning; 0: everywhere alike. Unit: bytes.
    pub hot_len: u64,
    /// Lengths and places of the load `mixed` instead: by count 40 % of 4 KiB, 30 % of 8, 10 % of 16, 15 % of 64 and
    /// 5 % of 1 MiB, at multiples of 4 KiB, 90 % of them in the first twentieth of the disk.
    pub is_mixed: bool,
}

/// What the load has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub writes: u64,
    pub zeroes: u64,
    pub discards: u64,
    /// Payload of the writes. Unit: bytes.
    pub bytes_written: u64,
    /// Requests that overlapped one that was in flight when they were sent.
    pub overlapping: u64,
    /// Requests whose connection was lost before the answer came.
    pub unknown: u64,
    /// The slowest answer.
    pub latency_max: Duration,
}

/// A load that runs. Dropping it ends it at once.
pub struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
}

/// The load stands still until this is dropped: nothing is in flight.
pub struct Held {
    _gate: OwnedRwLockWriteGuard<()>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Write,
    Zero,
    Discard,
}

/// A run of bytes on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    at: u64,
    len: u64,
}

struct Shared {
    spec: LoadSpec,
    disk_len: u64,
    connections: Vec<Connection>,
    pool: Bytes,
    gate: Arc<RwLock<()>>,
    burst: Mutex<Burst>,
    state: Mutex<State>,
}

/// The burst that requests are drawn for.
struct Burst {
    begins: Instant,
    /// What it has left. Unit: bytes.
    left: u64,
}

#[derive(Default)]
struct State {
    in_flight: Vec<Run>,
    done: Done,
}

impl LoadSpec {
    /// One connection, 4 KiB to 64 KiB, nothing but writes.
    pub const fn writes(seed: u64, rate_max: u64) -> Self {
        Self {
            seed,
            connections: 1,
            depth: 8,
            rate_max: Some(rate_max),
            len_min: 4 << 10,
            len_max: 64 << 10,
            zero_one_in: 0,
            discard_one_in: 0,
            hot_len: 0,
            is_mixed: false,
        }
    }

    /// The load `mixed`, 5 % of it zeroes.
    pub const fn mixed(seed: u64, rate_max: Option<u64>) -> Self {
        Self {
            rate_max,
            depth: 32,
            len_max: 1 << 20,
            zero_one_in: 20,
            is_mixed: true,
            ..Self::writes(seed, 0)
        }
    }
}

impl Load {
    /// Connects and begins.
    ///
    /// # Errors
    ///
    /// When there is no connection.
    pub async fn start(address: &NbdAddress, spec: LoadSpec) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..spec.connections {
            connections.push(Connection::open(address).await?);
        }
        let first = connections.first().context("a load has connections")?;
        let disk_len = first.client().await.info().size.0;
        ensure!(spec.len_max < disk_len, "the disk has room for a request");
        let shared = Arc::new(Shared {
            spec,
            disk_len,
            connections,
            pool: pool(spec.seed),
            gate: Arc::default(),
            burst: Mutex::new(Burst {
                begins: Instant::now(),
                left: 0,
            }),
            state: Mutex::default(),
        });
        let (stop, _) = watch::channel(false);
        let mut workers = JoinSet::new();
        for index in 0..spec.connections * spec.depth {
            let random = StdRng::seed_from_u64(spec.seed.wrapping_add(1 + index as u64));
            let connection = index % spec.connections;
            workers.spawn(work(
                Arc::clone(&shared),
                connection,
                random,
                stop.subscribe(),
            ));
        }
        Ok(Self {
            shared,
            workers,
            stop,
        })
    }

    /// Lets what is in flight complete, and nothing new begin.
    pub async fn hold(&self) -> Held {
        let gate = Arc::clone(&self.shared.gate).write_owned().await;
        Held { _gate: gate }
    }

    /// What was done so far.
    pub fn done(&self) -> Done {
        self.shared.lock().done
    }

    /// The slowest answer since the last question.
    pub fn take_latency_max(&self) -> Duration {
        std::mem::take(&mut self.shared.lock().done.latency_max)
    }

    /// Lets the load go on for a while.
    ///
    /// # Errors
    ///
    /// When the disk failed a request meanwhile.
    pub async fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        tokio::select! {
            () = sleep_until(end) => Ok(()),
            ended = self.workers.join_next() => {
                ended.context("a load has workers")??.context("the load ended")?;
                anyhow::bail!("the load ended by itself")
            }
        }
    }

    /// Ends the load; every request that was begun has completed when this returns.
    ///
    /// # Errors
    ///
    /// When the disk failed a request.
    pub async fn finish(mut self) -> Result<Done> {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            ended?.context("the load ended")?;
        }
        Ok(self.done())
    }
}

async fn work(
    shared: Arc<Shared>,
    connection: usize,
    mut random: StdRng,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    while !*stop.borrow() {
        let (kind, run) = shared.spec.draw(&mut random, shared.disk_len);
        shared.pace(kind, run).await;
        let _gate = Arc::clone(&shared.gate).read_owned().await;
        if *stop.borrow() {
            return Ok(());
        }
        let cut = random.random_range(0..=shared.pool.len() as u64 - run.len);
        shared.send(connection, kind, run, cut).await?;
    }
    Ok(())
}

impl LoadSpec {
    fn draw(&self, random: &mut StdRng, disk_len: u64) -> (Kind, Run) {
        let one_in =
            |random: &mut StdRng, count: u32| 0 < count && random.random_ratio(1, count.max(1));
        let kind = if one_in(random, self.zero_one_in) {
            Kind::Zero
        } else if one_in(random, self.discard_one_in) {
            Kind::Discard
        } else {
            Kind::Write
        };
        if self.is_mixed {
            return (kind, mixed(random, disk_len));
        }
        // Lengths are spread evenly over their magnitudes, and short magnitudes are taken twice as often.
        let magnitudes = (self.len_max / self.len_min).max(1).ilog2();
        let a = random.random_range(0..=magnitudes);
        let magnitude = a.min(random.random_range(0..=magnitudes));
        let least = self.len_min << magnitude;
        let most = (least * 2).min(self.len_max);
        let len = random.random_range(least..=most) / SECTOR * SECTOR;
        let room = if 0 < self.hot_len && random.random() {
            self.hot_len.clamp(len, disk_len) - len
        } else {
            disk_len - len
        };
        let at = random.random_range(0..=room / SECTOR) * SECTOR;
        (kind, Run { at, len })
    }
}

/// Where `mixed` writes next.
fn mixed(random: &mut StdRng, disk_len: u64) -> Run {
    let len = match random.random_range(0..100) {
        0..40 => 4 << 10,
        40..70 => 8 << 10,
        70..80 => 16 << 10,
        80..95 => 64 << 10,
        _ => 1 << 20,
    };
    let is_hot = random.random_ratio(9, 10);
    let within = if is_hot { disk_len / 20 } else { disk_len };
    let room = within.max(len) - len;
    let at = random.random_range(0..=room / MIXED_STEP) * MIXED_STEP;
    Run { at, len }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the burst that the request belongs to.
    async fn pace(&self, kind: Kind, run: Run) {
        let Some(rate) = self.spec.rate_max else {
            return;
        };
        let len = if kind == Kind::Write { run.len } else { SECTOR };
        let begins = {
            let mut burst = self.burst.lock().unwrap_or_else(PoisonError::into_inner);
            if burst.left == 0 {
                // What was missed while the load was held is not made up for.
                burst.begins = Instant::now().max(burst.begins + BURST_EVERY);
                burst.left = rate / BURSTS_A_SECOND;
            }
            burst.left = burst.left.saturating_sub(len);
            burst.begins
        };
        sleep_until(begins).await;
    }

    async fn send(&self, connection: usize, kind: Kind, run: Run, cut: u64) -> Result<()> {
        self.begin(run);
        let began = Instant::now();
        let at = ByteOffset(run.at);
        let len = u32::try_from(run.len)?;
        let connection = &self.connections[connection];
        let request = match kind {
            Kind::Write => {
                let cut = usize::try_from(cut).expect("inside the pool");
                Request::Write(at, self.pool.slice(cut..cut + len as usize))
            }
            Kind::Zero => Request::Zero(at, len),
            Kind::Discard => Request::Discard(at, len),
        };
        let sent = connection.send(request).await;
        let done = matches!(sent, Ok(Sent::Done));
        self.end(kind, run, began.elapsed(), done);
        sent.map(drop)
    }

    fn begin(&self, run: Run) {
        let mut state = self.lock();
        let overlaps = state.in_flight.iter().any(|other| other.overlaps(run));
        state.done.overlapping += u64::from(overlaps);
        state.in_flight.push(run);
    }

    fn end(&self, kind: Kind, run: Run, took: Duration, done: bool) {
        let mut state = self.lock();
        let place = state.in_flight.iter().position(|other| *other == run);
        state.in_flight.swap_remove(place.expect("it was begun"));
        let counts = &mut state.done;
        if !done {
            counts.unknown += 1;
            return;
        }
        counts.latency_max = counts.latency_max.max(took);
        match kind {
            Kind::Write => {
                counts.writes += 1;
                counts.bytes_written += run.len;
            }
            Kind::Zero => counts.zeroes += 1,
            Kind::Discard => counts.discards += 1,
        }
    }
}

impl Run {
    const fn overlaps(self, other: Self) -> bool {
        self.at < other.at + other.len && other.at < self.at + self.len
    }
}

/// Payloads are cut from it at any byte, so that two writes hardly ever carry the same.
fn pool(seed: u64) -> Bytes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut pool = vec![0; POOL_LEN];
    random.fill_bytes(&mut pool);
    for (index, stretch) in pool.chunks_mut(STRETCH_LEN).enumerate() {
        if index % 2 == 0 {
            for line in stretch.chunks_mut(64) {
                let text = format!(
                    "{:>12} record of stretch {index}, the rest is text: ",
                    line[0]
                );
                let len = text.len().min(line.len());
                line[..len].copy_from_slice(&text.as_bytes()[..len]);
                line[len..].fill(b'.');
            }
        }
    }
    pool.into()
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.bytes_written >> 20;
        write!(
            f,
            "{} writes ({mib} MiB), {} zeroes, {} discards, {} overlapping in flight, {} cut off, \
             slowest answer {} ms",
            self.writes,
            self.zeroes,
            self.discards,
            self.overlapping,
            self.unknown,
            self.latency_max.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use everpoint_nbd::{MemoryExport, Server, ServerConfig};
    use everpoint_units::ByteLen;

    use super::*;

    const SPEC: LoadSpec = LoadSpec {
        seed: 7,
        connections: 2,
        depth: 4,
        rate_max: None,
        len_min: 512,
        len_max: 2 << 20,
        zero_one_in: 20,
        discard_one_in: 20,
        hot_len: 8 << 20,
        is_mixed: false,
    };

    #[test]
    fn requests_of_every_kind_and_magnitude_lie_on_the_disk() {
        let mut random = StdRng::seed_from_u64(1);
        let disk_len = 64 << 20;
        let drawn: Vec<_> = (0..20_000)
            .map(|_| SPEC.draw(&mut random, disk_len))
            .collect();
        for (_, run) in &drawn {
            assert!(
                run.at + run.len <= disk_len && run.at % SECTOR == 0,
                "{run:?}"
            );
            assert!(
                (512..=2 << 20).contains(&run.len) && run.len % SECTOR == 0,
                "{run:?}"
            );
        }
        let count = |is: &dyn Fn(&(Kind, Run)) -> bool| drawn.iter().filter(|r| is(r)).count();
        assert!(count(&|(kind, _)| *kind == Kind::Zero) > 500);
        assert!(count(&|(kind, _)| *kind == Kind::Discard) > 500);
        assert!(count(&|(_, run)| run.len == 512) > 100);
        assert!(count(&|(_, run)| 1 << 20 <= run.len) > 50);
        assert!(count(&|(_, run)| run.at + run.len <= 8 << 20) > 9_000);
    }

    #[test]
    fn mixed_is_mixed_as_it_says() {
        let mut random = StdRng::seed_from_u64(2);
        let disk_len = 8 << 30;
        let spec = LoadSpec::mixed(2, None);
        let drawn: Vec<_> = (0..20_000)
            .map(|_| spec.draw(&mut random, disk_len).1)
            .collect();
        let permille = |is: &dyn Fn(&Run) -> bool| {
            drawn.iter().filter(|run| is(run)).count() * 1_000 / drawn.len()
        };
        let lens = [4, 8, 16, 64, 1_024].map(|kib| permille(&|run| run.len == kib << 10));
        for (is, wanted) in lens.into_iter().zip([400, 300, 100, 150, 50]) {
            assert!(is.abs_diff(wanted) < 20, "{lens:?}");
        }
        let hot = permille(&|run| run.at + run.len <= disk_len / 20);
        assert!((890..920).contains(&hot), "{hot}");
    }

    #[test]
    fn half_of_a_pool_is_text() {
        let pool = pool(1);
        let dots = pool.iter().filter(|byte| **byte == b'.').count();
        assert!(POOL_LEN / 32 < dots && dots < POOL_LEN / 4, "{dots}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_held_load_has_nothing_in_flight_and_goes_on_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nbd");
        let server = Server::new(ServerConfig::default()).unwrap();
        let export = MemoryExport::new(ByteLen(64 << 20));
        server.attach("disk", Arc::new(export)).unwrap();
        server.listen_unix(&socket).unwrap();
        let load = Load::start(&NbdAddress::unix(socket, "disk"), SPEC)
            .await
            .unwrap();
        let some = async |than: u64| {
            crate::rigs::wait::until("writes", Duration::from_secs(30), async || {
                Ok((than + 200 < load.done().writes).then_some(()))
            })
            .await
            .unwrap();
        };
        some(0).await;
        let held = load.hold().await;
        assert_eq!(load.shared.lock().in_flight, []);
        let writes = load.done().writes;
        drop(held);
        some(writes).await;
        let done = load.finish().await.unwrap();
        assert!(
            0 < done.zeroes && 0 < done.discards && 0 < done.overlapping,
            "{done}"
        );
    }
}
