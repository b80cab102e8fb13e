//! Opening, probing and counting, on stores made to fail the probe.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::*;
use crate::error::{ProbeFinding, Remedy};

/// A store that breaks one promise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Broken {
    Overwrites,
    MixesUp,
    ListsNothing,
    Refuses,
}

struct BrokenStore {
    inner: StoreBackend,
    broken: Broken,
}

impl Backend for BrokenStore {
    fn create<'a>(&'a self, name: &'a ObjectName, payload: &'a Payload) -> Attempt<'a, Landed> {
        async move {
            match (self.broken, self.inner.create(name, payload).await?) {
                (Broken::Overwrites, _) => Ok(Landed::New),
                (Broken::Refuses, _) => Err(Fault::NotDone(Cause::Injected)),
                (_, landed) => Ok(landed),
            }
        }
        .boxed()
    }

    fn compare<'a>(
        &'a self,
        name: &'a ObjectName,
        payload: &'a Payload,
    ) -> Attempt<'a, Comparison> {
        self.inner.compare(name, payload)
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        part: Part,
        len_max: ByteLen,
    ) -> Attempt<'a, Option<crate::backend::Found>> {
        async move {
            let mut found = self.inner.read(name, part, len_max).await?;
            if let (Broken::MixesUp, Some(found)) = (self.broken, &mut found) {
                found.bytes = Bytes::from_static(b"another object");
            }
            Ok(found)
        }
        .boxed()
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, Option<ByteLen>> {
        self.inner.head(name)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a ObjectPrefix,
        after: Option<&'a ObjectName>,
        count_max: NonZeroUsize,
    ) -> Attempt<'a, Page> {
        async move {
            let page = self.inner.list(prefix, after, count_max).await?;
            let is_empty = self.broken == Broken::ListsNothing;
            Ok(if is_empty { Page::default() } else { page })
        }
        .boxed()
    }

    fn list_prefixes<'a>(&'a self, prefix: &'a ObjectPrefix) -> Attempt<'a, Vec<ObjectPrefix>> {
        self.inner.list_prefixes(prefix)
    }

    fn settle<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, bool> {
        self.inner.settle(name)
    }
}

async fn open(url: &str) -> Result<Vault, OpenError> {
    Vault::open(
        &url.parse().unwrap(),
        &VaultConfig::default(),
        OpenOptions::READ,
    )
    .await
}

async fn probed(broken: Broken) -> OpenError {
    let url: VaultUrl = "memory://broken".parse().unwrap();
    let inner = StoreBackend::memory("broken");
    let backend = Arc::new(BrokenStore { inner, broken });
    let vault = Vault::over(backend, &url, &VaultConfig::default());
    probe(&vault).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_breaks_its_word_is_refused_at_open() {
    for (broken, finding) in [
        (Broken::Overwrites, ProbeFinding::SecondCreateSucceeded),
        (Broken::MixesUp, ProbeFinding::OtherBytesRead),
        (Broken::ListsNothing, ProbeFinding::NotListed),
    ] {
        let error = probed(broken).await;
        assert!(
            matches!(error, OpenError::Unsuitable { finding: found } if found == finding),
            "{error:?}"
        );
        assert_eq!(error.remedy(), Remedy::Report);
    }
    let error = probed(Broken::Refuses).await;
    assert!(matches!(error, OpenError::ProbeFailed { .. }), "{error:?}");
    assert_eq!(error.remedy(), Remedy::Again);
}

#[tokio::test]
async fn each_probe_has_a_name_of_its_own() {
    let url: VaultUrl = "memory://probes".parse().unwrap();
    for count in 1..=3 {
        let vault = Vault::open(&url, &VaultConfig::default(), OpenOptions::WRITE)
            .await
            .unwrap();
        let probes = ObjectPrefix::new("v1/probe").unwrap();
        assert_eq!(
            vault.list(&probes, None).await.unwrap().objects.len(),
            count
        );
    }
}

#[tokio::test]
async fn a_cloud_that_nobody_answers_for_is_away_and_no_empty_vault() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a2V5").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    // A port that was free a moment ago, on a network where nobody else is.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let config = VaultConfig {
        azure: crate::AzureAccess {
            account: Some("disks".into()),
            endpoint: Some(nobody.clone()),
            access_key_file: Some(secret.clone()),
            ..crate::AzureAccess::default()
        },
        s3: crate::S3Access {
            region: Some("us-east-1".into()),
            endpoint: Some(nobody),
            access_key_id: Some("id".into()),
            secret_access_key_file: Some(secret),
            ..crate::S3Access::default()
        },
        ..VaultConfig::default()
    };
    for url in ["az://container/prefix", "s3://bucket"] {
        let url: VaultUrl = url.parse().unwrap();
        let error = Vault::open(&url, &config, OpenOptions::READ)
            .await
            .unwrap_err();
        assert!(matches!(error, OpenError::Unavailable { .. }), "{error:?}");
        assert_eq!(error.remedy(), Remedy::Again);
        assert!(!error.is_denied());
    }
}

#[tokio::test]
async fn memory_vaults_are_told_apart_by_name_and_shared_by_it() {
    let name = ObjectName::new("v1/vault").unwrap();
    let payload = Payload::from(b"id".to_vec());
    open("memory://one")
        .await
        .unwrap()
        .create(&name, &payload)
        .await
        .unwrap();
    assert!(
        open("memory://one")
            .await
            .unwrap()
            .head(&name)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        open("memory://other")
            .await
            .unwrap()
            .head(&name)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_listing_says_of_how_many_pages_it_was_put_together() {
    let config = VaultConfig {
        list_page_count_max: 2,
        ..VaultConfig::default()
    };
    let url = "memory://listing".parse().unwrap();
    let vault = Vault::open(&url, &config, OpenOptions::READ).await.unwrap();
    let prefix = ObjectPrefix::new("v1/journal/1-a").unwrap();
    for (count, pages) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let name = prefix.object(&format!("{count:020}")).unwrap();
        vault
            .create(&name, &Payload::new(Vec::new()))
            .await
            .unwrap();
        let listing = vault.list_to_end(&prefix, None).await.unwrap();
        assert_eq!((listing.objects.len(), listing.pages), (count, pages));
    }
}

/// Keeps counters, and counts what a histogram is given, by name and labels.
#[derive(Default)]
struct Counted(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counted {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        let key = format!("{} {}", key.name(), labels.join(" "));
        Arc::clone(self.0.lock().unwrap().entry(key).or_default())
    }
}

struct Samples(Arc<AtomicU64>);

impl metrics::HistogramFn for Samples {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Samples(self.cell(key))))
    }
}

#[test]
fn every_request_is_counted_by_kind_and_result() {
    let counted = Counted::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    metrics::with_local_recorder(&counted, || {
        runtime.block_on(async {
            let vault = open("memory://counted").await.unwrap();
            let name = ObjectName::new("v1/vault").unwrap();
            vault.head(&name).await.unwrap();
            vault
                .create(&name, &Payload::from(b"one".to_vec()))
                .await
                .unwrap();
            vault
                .create(&name, &Payload::from(b"one".to_vec()))
                .await
                .unwrap();
            vault
                .create(&name, &Payload::from(b"two".to_vec()))
                .await
                .unwrap_err();
            vault.read(&name).await.unwrap();
        });
    });
    let counted = counted.0.lock().unwrap();
    let counted: Vec<_> = counted
        .iter()
        .map(|(key, count)| (key.as_str(), count.load(Ordering::Relaxed)))
        .collect();
    assert_eq!(
        counted,
        [
            ("everpoint_vault_request_seconds compare", 2),
            ("everpoint_vault_request_seconds create", 3),
            ("everpoint_vault_request_seconds head", 1),
            ("everpoint_vault_request_seconds read", 1),
            ("everpoint_vault_requests_total compare different", 1),
            ("everpoint_vault_requests_total compare same", 1),
            ("everpoint_vault_requests_total create exists", 2),
            ("everpoint_vault_requests_total create new", 1),
            ("everpoint_vault_requests_total head absent", 1),
            ("everpoint_vault_requests_total read found", 1),
        ]
    );
}
