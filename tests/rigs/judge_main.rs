//! The judge of the kill test: a guest, and the one who writes down what it was promised, in one process.
//!
//! It answers `mark` on its standard input with the tick that comes next, once everything before it is on the
//! medium. It ends with its standard input, and fails when a request of the guest fails.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use everpoint_nbd::NbdAddress;
use everpoint_tests::rigs::control::{agent_status, disk_of, if_there, only_disk, server_status};
use everpoint_tests::rigs::guest::{self, GuestSpec};
use everpoint_tests::rigs::record::Recorder;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{MissedTickBehavior, interval};

/// How often watermarks are asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Parser)]
struct Args {
    /// The guest's disk.
    #[arg(long)]
    disk: NbdAddress,
    /// Control sockets.
    #[arg(long)]
    agent: PathBuf,
    #[arg(long)]
    server: PathBuf,
    /// The record.
    #[arg(long)]
    record: PathBuf,
    #[arg(long)]
    seed: u64,
    /// Unit: bytes a second.
    #[arg(long)]
    rate_max: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let recorder = Arc::new(Recorder::default());
    let file = File::create(&args.record)?;
    let keeping = tokio::task::spawn_blocking({
        let recorder = Arc::clone(&recorder);
        move || recorder.keep(file)
    });
    let spec = GuestSpec {
        address: args.disk.clone(),
        seed: args.seed,
        connections: 2,
        depth: 8,
        rate_max: args.rate_max,
    };
    tokio::select! {
        ended = guest::run(spec, Arc::clone(&recorder)) => {
            ended?;
            bail!("the guest ended by itself");
        }
        ended = watch(&args, &recorder) => ended?,
        ended = obey(&recorder) => ended?,
    }
    recorder.close();
    keeping.await?;
    Ok(())
}

/// Answers marks until the input ends.
async fn obey(recorder: &Arc<Recorder>) -> Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        if order != "mark" {
            bail!("unknown order {order:?}");
        }
        let recorder = Arc::clone(recorder);
        let tick = tokio::task::spawn_blocking(move || recorder.sync()).await??;
        println!("{}", tick.0);
    }
    Ok(())
}

/// Writes down what agent and server say, for ever.
async fn watch(args: &Args, recorder: &Recorder) -> Result<()> {
    let mut looks = interval(ASK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut disk_id = None;
    loop {
        looks.tick().await;
        let asked = recorder.next_tick();
        if let Some(status) = if_there(agent_status(&args.agent).await)? {
            let disk = only_disk(&status)?;
            disk_id = Some(disk.disk.clone());
            recorder.line(format_args!(
                "a {} {} {} {} {} {} {}",
                asked.0,
                status.seq,
                word(&disk.generation),
                disk.cached_block,
                disk.committed_block,
                disk.state,
                disk.resync_count
            ));
        }
        let Some(disk_id) = &disk_id else {
            continue;
        };
        let Some(status) = if_there(server_status(&args.server).await)? else {
            continue;
        };
        let cut = status
            .machines
            .iter()
            .map(|machine| machine.committed_cut)
            .max();
        if let Some(disk) = disk_of(&status, disk_id) {
            recorder.line(format_args!(
                "s {} {} {} {} {}",
                word(&disk.generation),
                disk.cached_block,
                disk.committed_block,
                disk.complete_through,
                cut.unwrap_or_default()
            ));
        }
    }
}

/// A generation in the record; `-` before the first.
fn word(generation: &[u8]) -> String {
    if generation.is_empty() {
        return "-".to_owned();
    }
    generation
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
