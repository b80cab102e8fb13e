//! What all tasks use, without agents and without a disk: for the tests of single tasks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use everpoint_cache_log::storage::memory::MemoryStorage;
use everpoint_cache_log::{CacheLogConfig, LogOwner};
use everpoint_format::digest::DigestKey;
use everpoint_units::{ByteLen, Level, VaultId, WallTime};
use everpoint_vault::{OpenOptions, VaultConfig, VaultUrl};

use super::*;

/// Nothing in these tests takes so long; whoever waits longer waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What each part of the memory may take. Unit: bytes.
pub(crate) const MEMORY: usize = 1 << 20;

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen in {PATIENCE:?}"),
    }
}

/// Everything empty; the vault is in memory, and has this name.
pub(crate) async fn shared(dir: &Path, name: &str) -> Arc<Shared> {
    let url: VaultUrl = format!("memory://{name}").parse().expect("a vault's name");
    let vault = Vault::open(&url, &VaultConfig::default(), OpenOptions::CREATE).await;
    let header = VaultHeader {
        vault: VaultId([1; 16]),
        digest_key: DigestKey([2; 32]),
        created_at: WallTime(0),
    };
    let server = ServerId([3; 16]);
    let journal = JournalId {
        level: Level(1),
        random: [4; 16],
    };
    let owner = LogOwner {
        vault: header.vault,
        server,
        journal,
    };
    let config = CacheLogConfig::new(ByteLen(64 << 20));
    let storage = Arc::new(MemoryStorage::new(0));
    let log = CacheLog::open_on(storage, &config, owner, Box::new(|| [5; 16]));
    // The other ends are gone: nothing here sends to the log or the commit.
    let (log_items, _) = mpsc::channel(1);
    let (commands, _) = mpsc::channel(1);
    Arc::new(Shared::new(
        vault.expect("a vault"),
        header,
        ServerState::open(dir, Some(server), server).expect("a state"),
        log.expect("a log").0,
        [(); 3].map(|()| ByteBudget::new(MEMORY)),
        Clock::start(),
        journal,
        log_items,
        commands,
        1,
        None,
    ))
}
