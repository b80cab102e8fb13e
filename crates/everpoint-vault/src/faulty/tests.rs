//! What a vault makes of each fault.

use std::time::Duration;

use super::*;
use crate::{CreateError, ListError, OpenOptions, ReadError, Remedy, RetryConfig, VaultUrl};

/// A fresh memory vault with faults, and three attempts at each request.
async fn faulty() -> (Vault, Faults) {
    let url: VaultUrl = format!("memory://{:016x}", rand::random::<u64>())
        .parse()
        .unwrap();
    let config = VaultConfig {
        retry: RetryConfig {
            attempts_max: 3,
            ..RetryConfig::default()
        },
        jitter_seed: Some(1),
        ..VaultConfig::default()
    };
    let vault = Vault::open(&url, &config, OpenOptions::CREATE)
        .await
        .unwrap();
    wrap(&vault, &config)
}

fn name() -> ObjectName {
    ObjectName::new("v1/journal/1-a/00000000000000000001").unwrap()
}

fn mine() -> Payload {
    Payload::from(b"mine".to_vec())
}

fn theirs() -> Payload {
    Payload::from(b"theirs".to_vec())
}

#[tokio::test(start_paused = true)]
async fn each_healing_fault_costs_a_repetition_and_nothing_else() {
    for fault in CreateFault::HEALING {
        let (vault, faults) = faulty().await;
        faults.queue_creates([fault]);
        let created = vault.create(&name(), &mine()).await.unwrap();
        assert_eq!(faults.injected(fault), 1);
        let has_landed = matches!(
            fault,
            CreateFault::LostAnswer | CreateFault::Duplicate | CreateFault::RootMoved
        );
        assert_eq!(created.was_there(), has_landed, "{fault:?}");
        faults.run_late().await;
        assert_eq!(
            &vault.read(&name()).await.unwrap().unwrap()[..],
            b"mine",
            "{fault:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_create_lands_after_its_caller_gave_up() {
    let (vault, faults) = faulty().await;
    faults.queue_creates([CreateFault::Late; 3]);
    let unknown = vault.create(&name(), &mine()).await.unwrap_err();
    assert!(
        matches!(unknown, CreateError::Ambiguous { attempts: 3, .. }),
        "{unknown:?}"
    );
    assert_eq!(unknown.remedy(), Remedy::Again);

    assert!(0 < faults.run_late().await);
    let refused = vault.create(&name(), &theirs()).await.unwrap_err();
    assert!(
        matches!(refused, CreateError::Different { .. }),
        "{refused:?}"
    );
    assert!(vault.create(&name(), &mine()).await.unwrap().was_there());
}

#[tokio::test(start_paused = true)]
async fn a_late_create_lands_by_itself_a_few_requests_later() {
    let (vault, faults) = faulty().await;
    faults.queue_creates([
        CreateFault::Late,
        CreateFault::Unavailable,
        CreateFault::Unavailable,
    ]);
    assert!(vault.create(&name(), &mine()).await.is_err());
    assert_eq!(vault.head(&name()).await.unwrap(), Some(ByteLen(4)));
}

#[tokio::test(start_paused = true)]
async fn what_certainly_had_no_effect_is_not_called_ambiguous() {
    let (vault, faults) = faulty().await;
    faults.outage(true);
    let out = vault.create(&name(), &mine()).await.unwrap_err();
    assert!(
        matches!(out, CreateError::Unavailable { attempts: 3, .. }),
        "{out:?}"
    );
    assert_eq!(out.remedy(), Remedy::Again);
    faults.outage(false);
    assert_eq!(vault.head(&name()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn one_lost_answer_makes_the_whole_create_ambiguous() {
    let (vault, faults) = faulty().await;
    faults.queue_creates([
        CreateFault::LostAnswer,
        CreateFault::Unavailable,
        CreateFault::Unavailable,
    ]);
    let unknown = vault.create(&name(), &mine()).await.unwrap_err();
    assert!(
        matches!(unknown, CreateError::Ambiguous { .. }),
        "{unknown:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_never_repeated_and_never_forgotten() {
    let (vault, faults) = faulty().await;
    faults.queue_creates([CreateFault::SyncFailed]);
    for _ in 0..2 {
        let fatal = vault.create(&name(), &mine()).await.unwrap_err();
        assert!(matches!(fatal, CreateError::SyncFailed { .. }), "{fatal:?}");
        assert_eq!(fatal.remedy(), Remedy::EndProcess);
    }
    assert_eq!(faults.injected(CreateFault::SyncFailed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_root_that_stays_away_is_named() {
    let (vault, faults) = faulty().await;
    faults.queue_creates([CreateFault::RootMoved; 3]);
    let moved = vault.create(&name(), &mine()).await.unwrap_err();
    assert!(matches!(moved, CreateError::RootMoved { .. }), "{moved:?}");
    assert_eq!(moved.remedy(), Remedy::Again);
    assert!(vault.create(&name(), &mine()).await.unwrap().was_there());
}

#[tokio::test(start_paused = true)]
async fn a_frozen_store_answers_after_the_thaw() {
    let (vault, faults) = faulty().await;
    faults.freeze(true);
    let waiting = tokio::spawn({
        let vault = vault.clone();
        async move { vault.create(&name(), &mine()).await }
    });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!waiting.is_finished());
    faults.freeze(false);
    assert!(!waiting.await.unwrap().unwrap().was_there());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_frozen_is_given_up_at_the_deadline() {
    let (vault, faults) = faulty().await;
    faults.freeze(true);
    let begun = tokio::time::Instant::now();
    let unknown = vault.create(&name(), &mine()).await.unwrap_err();
    assert!(
        matches!(unknown, CreateError::Ambiguous { attempts: 2, .. }),
        "{unknown:?}"
    );
    assert!(begun.elapsed() <= Duration::from_secs(61));
    faults.freeze(false);
    assert_eq!(
        vault.head(&name()).await.unwrap(),
        None,
        "a dropped request had no effect"
    );
}

#[tokio::test(start_paused = true)]
async fn reads_and_listings_are_repeated_too() {
    let (vault, faults) = faulty().await;
    vault.create(&name(), &mine()).await.unwrap();
    faults.queue_reads(2);
    assert!(vault.read(&name()).await.unwrap().is_some());
    faults.queue_reads(2);
    assert_eq!(
        vault
            .list(&name().prefix(), None)
            .await
            .unwrap()
            .objects
            .len(),
        1
    );
    assert_eq!(faults.injected_reads(), 4);

    faults.outage(true);
    let out = vault.read(&name()).await.unwrap_err();
    assert!(
        matches!(out, ReadError::Unavailable { attempts: 3, .. }),
        "{out:?}"
    );
    let out = vault.list(&name().prefix(), None).await.unwrap_err();
    assert!(
        matches!(out, ListError::Unavailable { attempts: 3, .. }),
        "{out:?}"
    );
    assert_eq!(out.remedy(), Remedy::Again);
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_history() {
    let mut histories = Vec::new();
    for _ in 0..2 {
        let (vault, faults) = faulty().await;
        faults.at_random(42, 500);
        let mut outcomes = Vec::new();
        for number in 0..50 {
            let name = name().prefix().object(&format!("{number:020}")).unwrap();
            let outcome = vault.create(&name, &mine()).await;
            outcomes.push(outcome.map_err(|error| error.to_string()));
        }
        let counts = CreateFault::HEALING.map(|fault| faults.injected(fault));
        histories.push((outcomes, counts, tokio::time::Instant::now()));
    }
    assert_eq!(histories[0].0, histories[1].0);
    assert_eq!(histories[0].1, histories[1].1);
    assert!(histories[0].1.iter().all(|&count| 0 < count));
}
