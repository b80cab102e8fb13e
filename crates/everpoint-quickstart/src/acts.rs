//! What happens while the load runs: bookmarks, the attack, and somebody who keeps looking at the lag.

use std::time::Duration;

use everpoint_agent::Agent;
use everpoint_process_server::ProcessServerConfig;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::error::QuickstartError;
use crate::load::Load;
use crate::report::{Attack, millis};
use crate::run::{Event, Mark, Tell, create_point};
use crate::server_host::ServerHost;

/// Bookmarks that are taken while the load runs.
const BOOKMARKS: u32 = 10;
/// How often the RPO lag is sampled.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How many samples from one report to the next.
const SAMPLES_PER_REPORT: usize = 10;

/// What happens while the load runs.
pub(crate) struct Acts<'a> {
    server: ProcessServerConfig,
    host: &'a mut ServerHost,
    agent: &'a Agent,
    load: &'a Load,
    marks: Vec<Mark>,
    attacked: Option<Attack>,
    tell: Tell<'a>,
}

impl<'a> Acts<'a> {
    /// Nothing happened yet. `server` is how the process server is started again.
    pub(crate) const fn new(
        server: ProcessServerConfig,
        host: &'a mut ServerHost,
        agent: &'a Agent,
        load: &'a Load,
        tell: Tell<'a>,
    ) -> Self {
        Self {
            server,
            host,
            agent,
            load,
            marks: Vec::new(),
            attacked: None,
            tell,
        }
    }

    /// Bookmarks, evenly spread, with the attack between the two in the middle.
    ///
    /// # Errors
    ///
    /// Why they cannot go on.
    pub(crate) async fn play(
        &mut self,
        begun: Instant,
        total: Duration,
        attack: bool,
    ) -> Result<(), QuickstartError> {
        let slot = total / BOOKMARKS;
        for index in 0..BOOKMARKS {
            if attack && index == BOOKMARKS / 2 {
                self.wait_until(begun + slot * index).await?;
                self.attack().await?;
            }
            self.wait_until(begun + slot * index + slot / 2).await?;
            self.mark(format!("bookmark-{}", index + 1)).await?;
        }
        self.wait_until(begun + total).await
    }

    async fn wait_until(&self, at: Instant) -> Result<(), QuickstartError> {
        tokio::select! {
            () = sleep_until(at) => Ok(()),
            why = self.host.ended() => Err(QuickstartError::ServerEnded(why)),
        }
    }

    /// Holds the load for an instant, so that there is one that can be known exactly.
    async fn mark(&mut self, name: String) -> Result<(), QuickstartError> {
        let held = self.load.hold().await;
        let point = create_point(self.agent, &name, Duration::ZERO).await?;
        let (source, tick) = held.source().await;
        drop(held);
        self.note(Mark {
            name,
            seq: point.seq,
            source,
            tick,
        });
        Ok(())
    }

    fn note(&mut self, mark: Mark) {
        (self.tell)(Event::Bookmark {
            name: mark.name.clone(),
            seq: mark.seq,
            source: mark.source,
        });
        self.marks.push(mark);
    }

    /// Kills the process server and starts it again. The load runs on, and its guest must not notice.
    async fn attack(&mut self) -> Result<(), QuickstartError> {
        let begun = Instant::now();
        self.host.kill().await;
        (self.tell)(Event::ServerKilled);
        *self.host = ServerHost::start(self.server.clone()).await?;
        let down = begun.elapsed();
        (self.tell)(Event::ServerBack { down });
        self.attacked = Some(Attack {
            server_kills: 1,
            down_ms: millis(down),
        });
        Ok(())
    }

    /// What came of it.
    pub(crate) fn end(self) -> (Vec<Mark>, Option<Attack>) {
        (self.marks, self.attacked)
    }
}

/// Samples the age of the oldest change that is not committed, for ever. Unit of `lags`: milliseconds.
pub(crate) async fn sample(
    agent: &Agent,
    load: &Load,
    (begun, total): (Instant, Duration),
    lags: &mut Vec<u64>,
    tell: Tell<'_>,
) {
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = (begun, load.done().bytes_written);
    loop {
        ticks.tick().await;
        let disks = agent.status().disks;
        let lag = disks.iter().map(|disk| disk.rpo_lag_ms).max().unwrap_or(0);
        lags.push(lag);
        if !lags.len().is_multiple_of(SAMPLES_PER_REPORT) {
            continue;
        }
        let (now, done) = (Instant::now(), load.done());
        let micros = u64::try_from((now - last.0).as_micros()).unwrap_or(u64::MAX);
        let bytes = (done.bytes_written - last.1).saturating_mul(1_000_000);
        last = (now, done.bytes_written);
        tell(Event::Writing {
            elapsed: now - begun,
            total,
            done,
            bytes_per_s: bytes.checked_div(micros).unwrap_or(0),
            rpo_lag: Duration::from_millis(lag),
        });
    }
}
