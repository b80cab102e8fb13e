//! One open vault: requests repeated until they have a clear answer, ambiguous creates settled by reading
//! back, everything counted.

mod gave_up;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use futures::FutureExt as _;
use object_store::ObjectStore;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::time::{Instant, timeout};

use crate::backend::{Attempt, Backend, Comparison, Fault, Landed, Part};
use crate::config::{OpenOptions, VaultConfig};
use crate::error::{Cause, CreateError, ListError, OpenError, ReadError, SettleError};
use crate::file::FileBackend;
use crate::name::{ObjectName, ObjectPrefix};
use crate::payload::Payload;
use crate::probe::probe;
use crate::retry::Schedule;
use crate::store::StoreBackend;
use crate::url::{Place, VaultUrl};
use crate::vault::gave_up::GaveUp;

/// Counter of attempts, labelled `kind` (`create`, `compare`, `read`, `read_range`, `read_suffix`, `head`, `list`,
/// `list_prefixes`, `settle`) and `result`.
const REQUESTS_TOTAL: &str = "everpoint_vault_requests_total";

/// Histogram of the seconds that one attempt took, labelled `kind`.
const REQUEST_SECONDS: &str = "everpoint_vault_request_seconds";

/// One open vault. Cloning is cheap; all clones share limits and state.
#[derive(Clone)]
pub struct Vault {
    shared: Arc<Shared>,
}

struct Shared {
    url: VaultUrl,
    backend: Arc<dyn Backend>,
    config: VaultConfig,
    jitter: Mutex<SmallRng>,
}

/// Proof that an object with exactly the bytes of one create lies in the vault, durably. Only
/// [`Vault::create`] makes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Created {
    name: ObjectName,
    was_there: bool,
}

/// One object in a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectEntry {
    /// Its name.
    pub name: ObjectName,
    /// Its length. Unit: bytes.
    pub len: ByteLen,
}

/// A part of a listing: objects sorted by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// Sorted by name, no name twice; empty only if nothing is left.
    pub objects: Vec<ObjectEntry>,
    /// Whether nothing comes after.
    pub is_last: bool,
}

/// A listing that was followed to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// Sorted by name, no name twice.
    pub objects: Vec<ObjectEntry>,
    /// Of how many pages it was put together. Of several, the first may be older than the last: an object
    /// created meanwhile in a part that was already listed is missing.
    pub pages: usize,
}

/// The last bytes of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suffix {
    /// As many as were asked for, or the whole object if it is shorter.
    pub bytes: Bytes,
    /// How long the whole object is. Unit: bytes.
    pub object_len: ByteLen,
}

impl Vault {
    /// Opens the vault at `url`.
    ///
    /// # Errors
    ///
    /// What stands in the way; see [`OpenError::remedy`].
    pub async fn open(
        url: &VaultUrl,
        config: &VaultConfig,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        config.check()?;
        describe_metrics();
        let backend: Arc<dyn Backend> = match url.place() {
            Place::File(directory) => {
                Arc::new(FileBackend::open(directory, config, options).await?)
            }
            Place::Memory(name) => Arc::new(StoreBackend::memory(name)),
            Place::Azure { container, prefix } => {
                Arc::new(reached(config, config.azure.store(container, prefix)?).await?)
            }
            Place::S3 { bucket, prefix } => {
                Arc::new(reached(config, config.s3.store(bucket, prefix)?).await?)
            }
        };
        let vault = Self::over(backend, url, config);
        if options.probe {
            probe(&vault).await?;
        }
        Ok(vault)
    }

    pub(crate) fn over(backend: Arc<dyn Backend>, url: &VaultUrl, config: &VaultConfig) -> Self {
        let seed = config.jitter_seed.unwrap_or_else(rand::random);
        let shared = Shared {
            url: url.clone(),
            backend,
            config: config.clone(),
            jitter: Mutex::new(SmallRng::seed_from_u64(seed)),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The same vault with another backend between, and limits of its own.
    pub(crate) fn wrapped(
        &self,
        config: &VaultConfig,
        wrap: impl FnOnce(Arc<dyn Backend>) -> Arc<dyn Backend>,
    ) -> Self {
        let backend = wrap(Arc::clone(&self.shared.backend));
        Self::over(backend, &self.shared.url, config)
    }

    /// Where the vault lies.
    pub fn url(&self) -> &VaultUrl {
        &self.shared.url
    }

    /// The limits it was opened with.
    pub fn config(&self) -> &VaultConfig {
        &self.shared.config
    }

    /// Creates the object unless its name is taken. An object that is there with the very same bytes counts
    /// as created, once it is durable. Repeating a create with the same bytes is always safe, also while
    /// an earlier one is still on its way.
    ///
    /// Cancel-safe: a dropped create may take effect later or never.
    ///
    /// # Errors
    ///
    /// What is known instead; see [`CreateError::remedy`].
    pub async fn create(
        &self,
        name: &ObjectName,
        payload: &Payload,
    ) -> Result<Created, CreateError> {
        let max = self.config().object_len_max();
        if max < payload.len() {
            return Err(CreateError::TooLong {
                name: name.clone(),
                len: payload.len(),
                max,
            });
        }
        let mut schedule = Schedule::new(&self.config().retry, payload.len());
        let mut was_unknown = false;
        loop {
            schedule.begin();
            let fault = match self.create_once(&schedule, name, payload).await {
                Ok(created) => return Ok(created),
                Err(fault) => fault,
            };
            let gave_up = self.pause(&schedule, was_unknown, fault).await;
            match gave_up {
                Ok(is_unknown) => was_unknown = is_unknown,
                Err(gave_up) => return Err(gave_up.into_create(name)),
            }
        }
    }

    /// One attempt, and where it meets an object, the comparison that tells whose it is.
    async fn create_once(
        &self,
        schedule: &Schedule<'_>,
        name: &ObjectName,
        payload: &Payload,
    ) -> Result<Created, Fault> {
        let backend = &self.shared.backend;
        let landed = call(
            schedule,
            "create",
            backend.create(name, payload),
            |landed| match landed {
                Landed::New => "new",
                Landed::Exists => "exists",
            },
        );
        if landed.await? == Landed::New {
            return Ok(Created {
                name: name.clone(),
                was_there: false,
            });
        }
        let compared = call(
            schedule,
            "compare",
            backend.compare(name, payload),
            |compared| match compared {
                Comparison::Same => "same",
                Comparison::Different => "different",
                Comparison::Absent => "absent",
            },
        );
        match compared.await? {
            Comparison::Same => Ok(Created {
                name: name.clone(),
                was_there: true,
            }),
            Comparison::Different => Err(Fault::Different),
            Comparison::Absent => Err(Fault::Unknown(Cause::ExistedThenNotFound)),
        }
    }

    /// Reads a whole object; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`ReadError`] says.
    pub async fn read(&self, name: &ObjectName) -> Result<Option<Bytes>, ReadError> {
        let found = self.read_part("read", name, Part::Whole).await?;
        Ok(found.map(|found| found.bytes))
    }

    /// Reads `len` bytes at `at`; `None` if there is no such object.
    ///
    /// # Errors
    ///
    /// [`ReadError::OutOfRange`] if the object ends before; else as [`ReadError`] says.
    pub async fn read_range(
        &self,
        name: &ObjectName,
        at: ByteOffset,
        len: ByteLen,
    ) -> Result<Option<Bytes>, ReadError> {
        let part = Part::Range { at, len };
        let found = self.read_part("read_range", name, part).await?;
        Ok(found.map(|found| found.bytes))
    }

    /// Reads the last `len` bytes, or the whole object if it is shorter; `None` if there is no such object.
    ///
    /// # Errors
    ///
    /// As [`ReadError`] says.
    pub async fn read_suffix(
        &self,
        name: &ObjectName,
        len: ByteLen,
    ) -> Result<Option<Suffix>, ReadError> {
        let part = Part::Suffix { len };
        let found = self.read_part("read_suffix", name, part).await?;
        Ok(found.map(|found| Suffix {
            bytes: found.bytes,
            object_len: found.object_len,
        }))
    }

    /// How long the object is; `None` if there is no such object.
    ///
    /// # Errors
    ///
    /// As [`ReadError`] says.
    pub async fn head(&self, name: &ObjectName) -> Result<Option<ByteLen>, ReadError> {
        let backend = &self.shared.backend;
        let outcome = self
            .repeat("head", ByteLen(0), presence, || backend.head(name))
            .await;
        outcome.map_err(|gave_up| gave_up.into_read(name, Part::Whole, self.config()))
    }

    async fn read_part(
        &self,
        kind: &'static str,
        name: &ObjectName,
        part: Part,
    ) -> Result<Option<crate::backend::Found>, ReadError> {
        let backend = &self.shared.backend;
        let len_max = self.config().object_len_max();
        let outcome = self.repeat(kind, part.moves(), presence, || {
            backend.read(name, part, len_max)
        });
        let outcome = outcome.await;
        outcome.map_err(|gave_up| gave_up.into_read(name, part, self.config()))
    }

    /// One page of the objects below `prefix`, at any depth, whose names come after `after`: all that were
    /// created before the call, and of those created during it some.
    ///
    /// # Errors
    ///
    /// As [`ListError`] says.
    pub async fn list(
        &self,
        prefix: &ObjectPrefix,
        after: Option<&ObjectName>,
    ) -> Result<Page, ListError> {
        let count_max = self.config().page_count_max();
        self.list_page(prefix, after, count_max).await
    }

    pub(crate) async fn list_page(
        &self,
        prefix: &ObjectPrefix,
        after: Option<&ObjectName>,
        count_max: NonZeroUsize,
    ) -> Result<Page, ListError> {
        let backend = &self.shared.backend;
        let outcome = self.repeat(
            "list",
            ByteLen(0),
            |_| "ok",
            || backend.list(prefix, after, count_max),
        );
        outcome.await.map_err(|gave_up| gave_up.into_list(prefix))
    }

    /// The objects below `prefix` after `after`, page by page to the end. Bounded by what lies there.
    ///
    /// # Errors
    ///
    /// As [`ListError`] says.
    pub async fn list_to_end(
        &self,
        prefix: &ObjectPrefix,
        after: Option<&ObjectName>,
    ) -> Result<Listing, ListError> {
        let mut page = self.list(prefix, after).await?;
        let mut listing = Listing {
            objects: page.objects,
            pages: 1,
        };
        while !page.is_last {
            let last = listing.objects.last().map(|last| last.name.clone());
            page = self.list(prefix, last.as_ref()).await?;
            listing.objects.append(&mut page.objects);
            listing.pages += 1;
        }
        Ok(listing)
    }

    /// The prefixes one segment longer than `prefix`, sorted. One may hold no object: a create that did
    /// not succeed can leave it behind.
    ///
    /// # Errors
    ///
    /// As [`ListError`] says.
    pub async fn list_prefixes(
        &self,
        prefix: &ObjectPrefix,
    ) -> Result<Vec<ObjectPrefix>, ListError> {
        let backend = &self.shared.backend;
        let outcome = self.repeat(
            "list_prefixes",
            ByteLen(0),
            |_| "ok",
            || backend.list_prefixes(prefix),
        );
        outcome.await.map_err(|gave_up| gave_up.into_list(prefix))
    }

    /// Makes an object that is *visible* durable, and has the next read of it come from the medium. To be
    /// called before a promise rests on an object that this process did not create itself: who made it
    /// may have died between making it visible and syncing it. `false` if there is no such object.
    ///
    /// # Errors
    ///
    /// As [`SettleError`] says.
    pub async fn forget_cached(&self, name: &ObjectName) -> Result<bool, SettleError> {
        let backend = &self.shared.backend;
        let outcome = self
            .repeat("settle", ByteLen(0), |_| "ok", || backend.settle(name))
            .await;
        outcome.map_err(|gave_up| gave_up.into_settle(name))
    }

    /// Repeats one request until it has an answer or the schedule ends.
    async fn repeat<'a, T>(
        &self,
        kind: &'static str,
        moves: ByteLen,
        result: impl Fn(&T) -> &'static str,
        request: impl Fn() -> Attempt<'a, T>,
    ) -> Result<T, GaveUp> {
        let mut schedule = Schedule::new(&self.config().retry, moves);
        loop {
            schedule.begin();
            match call(&schedule, kind, request(), &result).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => self.pause(&schedule, false, fault).await?,
            };
        }
    }

    /// Waits before the next attempt, and says whether any attempt so far may have taken effect; or gives
    /// up.
    async fn pause(
        &self,
        schedule: &Schedule<'_>,
        was_unknown: bool,
        fault: Fault,
    ) -> Result<bool, GaveUp> {
        let pause = fault.may_heal().then(|| {
            let mut jitter = self
                .shared
                .jitter
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            schedule.pause(&mut jitter)
        });
        let Some(pause) = pause.flatten() else {
            return Err(GaveUp {
                attempts: schedule.attempts(),
                was_unknown,
                fault,
            });
        };
        tracing::debug!(
            ?fault,
            ?pause,
            attempts = schedule.attempts(),
            "a vault request is repeated"
        );
        tokio::time::sleep(pause).await;
        Ok(was_unknown || matches!(fault, Fault::Unknown(_)))
    }
}

/// The backend over a store in the cloud that has answered.
async fn reached(
    config: &VaultConfig,
    store: Arc<dyn ObjectStore>,
) -> Result<StoreBackend, OpenError> {
    let answered = StoreBackend::cloud(store, config.retry.attempt_max()).await;
    answered.map_err(|fault| OpenError::Unavailable {
        source: fault.into_cause(),
    })
}

fn describe_metrics() {
    metrics::describe_counter!(
        REQUESTS_TOTAL,
        "Requests to the vault's store, every attempt counted, by kind and result"
    );
    metrics::describe_histogram!(
        REQUEST_SECONDS,
        metrics::Unit::Seconds,
        "Time to the answer of one attempt at a request to the vault's store, by kind"
    );
}

/// One call to the store, within its time, counted.
async fn call<T>(
    schedule: &Schedule<'_>,
    kind: &'static str,
    attempt: Attempt<'_, T>,
    result: impl Fn(&T) -> &'static str,
) -> Result<T, Fault> {
    let begun = Instant::now();
    let after = schedule.call_max();
    let outcome = timeout(after, attempt).map(|outcome| match outcome {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault::Unknown(Cause::TimedOut { after })),
    });
    let outcome = outcome.await;
    let result = match &outcome {
        Ok(answer) => result(answer),
        Err(fault) => fault.label(),
    };
    metrics::counter!(REQUESTS_TOTAL, "kind" => kind, "result" => result).increment(1);
    metrics::histogram!(REQUEST_SECONDS, "kind" => kind).record(begun.elapsed().as_secs_f64());
    outcome
}

fn presence<T>(found: &Option<T>) -> &'static str {
    if found.is_some() { "found" } else { "absent" }
}

impl Created {
    /// The object.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Whether it was there already, with the same bytes: an earlier attempt had taken effect.
    pub fn was_there(&self) -> bool {
        self.was_there
    }
}

impl Default for Page {
    /// Nothing, and nothing after.
    fn default() -> Self {
        Self {
            objects: Vec::new(),
            is_last: true,
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.shared.url)
    }
}
