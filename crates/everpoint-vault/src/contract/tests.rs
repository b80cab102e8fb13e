//! The contract, run against every store that is built in, plain and faulty.

use crate::faulty::{self, CreateFault};
use crate::{OpenOptions, RetryConfig, Vault, VaultConfig, VaultUrl, contract};

async fn memory(name: &str) -> Vault {
    let url: VaultUrl = format!("memory://{name}").parse().unwrap();
    Vault::open(&url, &VaultConfig::default(), OpenOptions::CREATE)
        .await
        .unwrap()
}

async fn file(directory: &tempfile::TempDir) -> Vault {
    let url = VaultUrl::file(directory.path().join("vault")).unwrap();
    Vault::open(&url, &VaultConfig::default(), OpenOptions::CREATE)
        .await
        .unwrap()
}

/// Attempts enough that three faults of ten never strike until the budget ends.
fn patient() -> VaultConfig {
    VaultConfig {
        retry: RetryConfig {
            attempts_max: 200,
            delay_ms_first: 1,
            delay_ms_max: 2,
            ..RetryConfig::default()
        },
        jitter_seed: Some(1),
        ..VaultConfig::default()
    }
}

async fn check_with_faults(vault: &Vault) {
    for seed in 0..4 {
        let (faulty, faults) = faulty::wrap(vault, &patient());
        faults.at_random(seed, 300);
        contract::check(&faulty).await;
        for fault in CreateFault::HEALING {
            assert!(
                0 < faults.injected(fault),
                "seed {seed}: {fault:?} never struck"
            );
        }
        assert!(0 < faults.injected_reads());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    contract::check(&memory("contract").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    contract::check(&file(&directory).await).await;
    let staged = directory.path().join("vault").join(crate::STAGED_DIRECTORY);
    assert_eq!(
        staged.read_dir().unwrap().count(),
        0,
        "nothing stays staged"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_opened_twice_keeps_the_contract_from_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (file(&directory).await, file(&directory).await);
    tokio::join!(contract::check(&one), contract::check(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_memory_keeps_the_contract() {
    check_with_faults(&memory("faulty-contract").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    check_with_faults(&file(&directory).await).await;
}
