//! The guest of the kill test: stamped writes, several in flight, never two that overlap, all of them recorded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use everpoint_nbd::NbdAddress;
use everpoint_units::ByteOffset;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::rigs::connection::{Connection, Request, Sent};
use crate::rigs::record::Recorder;
use crate::rigs::stamp::{BLOCK_LEN, payload};

/// Longest write. Unit: blocks.
const COUNT_MAX: u32 = 16;

/// What the guest is like.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    pub address: NbdAddress,
    pub seed: u64,
    pub connections: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Unit: bytes a second.
    pub rate_max: u64,
}

/// What its workers share.
struct Guest {
    connections: Vec<Connection>,
    recorder: Arc<Recorder>,
    disk_blocks: u32,
    rate_max: u64,
    state: Mutex<State>,
}

struct State {
    /// First block and count of writes in flight.
    in_flight: Vec<(u32, u32)>,
    last_number: u32,
    /// When the next write may begin, by the rate.
    next: Instant,
}

/// Writes until the disk fails a request, which is an error.
///
/// # Errors
///
/// When there is no connection for a minute, or the disk fails a request.
pub async fn run(spec: GuestSpec, recorder: Arc<Recorder>) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..spec.connections {
        connections.push(Connection::open(&spec.address).await?);
    }
    let disk_len = connections[0].client().await.info().size.0;
    let guest = Arc::new(Guest {
        connections,
        recorder,
        disk_blocks: u32::try_from(disk_len / BLOCK_LEN as u64)?,
        rate_max: spec.rate_max,
        state: Mutex::new(State {
            in_flight: Vec::new(),
            last_number: 0,
            next: Instant::now(),
        }),
    });
    let mut workers = JoinSet::new();
    for index in 0..spec.connections * spec.depth {
        let random = StdRng::seed_from_u64(spec.seed.wrapping_add(index as u64));
        workers.spawn(work(Arc::clone(&guest), index % spec.connections, random));
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn work(guest: Arc<Guest>, connection: usize, mut random: StdRng) -> Result<()> {
    loop {
        let count = random.random_range(1..=COUNT_MAX);
        let first = random.random_range(0..=guest.disk_blocks - count);
        guest.pace(count).await;
        if guest.reserve(first, count) {
            guest
                .write(&guest.connections[connection], first, count)
                .await?;
        }
    }
}

impl Guest {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pace(&self, count: u32) {
        let at = {
            let mut state = self.state();
            // What could not be written while the agent was away is not made up for.
            let at = state.next.max(Instant::now());
            let bytes = u64::from(count) * BLOCK_LEN as u64;
            state.next = at + Duration::from_micros(bytes * 1_000_000 / self.rate_max);
            at
        };
        sleep_until(at).await;
    }

    /// Takes the blocks, unless a write in flight has one of them.
    fn reserve(&self, first: u32, count: u32) -> bool {
        let mut state = self.state();
        let overlaps =
            |&(other, others): &(u32, u32)| first < other + others && other < first + count;
        let free = !state.in_flight.iter().any(overlaps);
        if free {
            state.in_flight.push((first, count));
        }
        free
    }

    async fn write(&self, connection: &Connection, first: u32, count: u32) -> Result<()> {
        let number = {
            let mut state = self.state();
            state.last_number += 1;
            let number = state.last_number;
            // Under the lock, so that numbers rise with ticks.
            self.recorder
                .line(format_args!("i {number} {first} {count}"));
            number
        };
        let data = Bytes::from(payload(number, first, count));
        let at = ByteOffset(u64::from(first) * BLOCK_LEN as u64);
        if connection.send(Request::Write(at, data)).await? == Sent::Done {
            self.recorder.line(format_args!("c {number}"));
        }
        let mut state = self.state();
        state.in_flight.retain(|taken| *taken != (first, count));
        Ok(())
    }
}
