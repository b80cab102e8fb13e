//! The backend on the `object_store` crate: `memory://`, Azure and S3.
//!
//! Durability is the store's: what it has acknowledged it keeps, so comparing needs no sync and settling
//! has nothing to do.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use everpoint_units::ByteLen;
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};

use crate::backend::{Attempt, Backend, Comparison, Fault, Found, Landed, Part};
use crate::error::Cause;
use crate::name::{ObjectName, ObjectPrefix};
use crate::payload::Payload;
use crate::vault::{ObjectEntry, Page};

/// The memory vaults of this process, by name. They live as long as the process.
static MEMORY: LazyLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

/// A store that keeps what it acknowledges and lists in order of names.
pub(crate) struct StoreBackend {
    store: Arc<dyn ObjectStore>,
}

impl StoreBackend {
    /// The memory vault of this name, begun empty at its first use.
    pub(crate) fn memory(name: &str) -> Self {
        let mut vaults = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
        let store = vaults.entry(name.to_owned()).or_default();
        Self {
            store: Arc::clone(store) as Arc<dyn ObjectStore>,
        }
    }

    /// A store in the cloud. One question proves that it is there and lets this credential in: a container
    /// that is missing is no empty vault.
    pub(crate) async fn cloud(
        store: Arc<dyn ObjectStore>,
        answer_max: Duration,
    ) -> Result<Self, Fault> {
        let backend = Self { store };
        let first = async { backend.store.list(Some(&path("v1"))).try_next().await };
        match tokio::time::timeout(answer_max, first).await {
            Ok(Ok(_)) => Ok(backend),
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => Err(Fault::Unknown(Cause::TimedOut { after: answer_max })),
        }
    }

    async fn len(&self, name: &ObjectName) -> Result<Option<ByteLen>, Fault> {
        match self.store.head(&path(name.as_str())).await {
            Ok(meta) => Ok(Some(ByteLen(meta.size))),
            Err(Error::NotFound { .. }) => self.absent(name).await.map(|()| None),
            Err(error) => Err(refused(error)),
        }
    }

    /// Makes sure that it is the object that is not there, and not its container: in one that is gone, or is
    /// asked for in the wrong place, nothing is absent. The answer about a name has no words for the
    /// difference; a listing has.
    async fn absent(&self, name: &ObjectName) -> Result<(), Fault> {
        let below = path(name.as_str());
        let mut listing = self.store.list(Some(&below));
        listing.try_next().await.map_err(refused)?;
        Ok(())
    }

    /// The bytes of a range that lies inside the object; an empty one costs no request.
    async fn range(
        &self,
        name: &ObjectName,
        range: std::ops::Range<u64>,
    ) -> Result<Option<Bytes>, Fault> {
        if range.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        match self.store.get_range(&path(name.as_str()), range).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => self.absent(name).await.map(|()| None),
            Err(error) => Err(refused(error)),
        }
    }
}

impl Backend for StoreBackend {
    fn create<'a>(&'a self, name: &'a ObjectName, payload: &'a Payload) -> Attempt<'a, Landed> {
        async move {
            let bytes = PutPayload::from_iter(payload.pieces().iter().cloned());
            let path = path(name.as_str());
            match self
                .store
                .put_opts(&path, bytes, PutMode::Create.into())
                .await
            {
                Ok(_) => Ok(Landed::New),
                Err(Error::AlreadyExists { .. }) => Ok(Landed::Exists),
                // A credential that may create and not overwrite is told that it is not allowed, where others
                // are told that the name is taken (Azure: `UnauthorizedBlobOverwrite`).
                Err(error @ Error::PermissionDenied { .. }) => match self.len(name).await? {
                    Some(_) => Ok(Landed::Exists),
                    None => Err(refused(error)),
                },
                Err(error) => Err(refused(error)),
            }
        }
        .boxed()
    }

    fn compare<'a>(
        &'a self,
        name: &'a ObjectName,
        payload: &'a Payload,
    ) -> Attempt<'a, Comparison> {
        async move {
            // The length first: what is longer than the payload must not be fetched to find that out.
            let Some(len) = self.len(name).await? else {
                return Ok(Comparison::Absent);
            };
            if len != payload.len() {
                return Ok(Comparison::Different);
            }
            let Some(bytes) = self.range(name, 0..len.0).await? else {
                return Ok(Comparison::Absent);
            };
            let same = payload
                .equals(&bytes[..])
                .expect("bytes at hand do not fail to be read");
            Ok(if same {
                Comparison::Same
            } else {
                Comparison::Different
            })
        }
        .boxed()
    }

    /// Two requests, length and range, since not every store answers for the last bytes of an object
    /// (Azure does not). Objects never change, so nothing can come between.
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        part: Part,
        len_max: ByteLen,
    ) -> Attempt<'a, Option<Found>> {
        async move {
            let Some(object_len) = self.len(name).await? else {
                return Ok(None);
            };
            let (at, len) = part.within(object_len, len_max)?;
            let Some(bytes) = self.range(name, at.0..at.0 + len.0).await? else {
                return Ok(None);
            };
            if bytes.len() as u64 != len.0 {
                return Err(Fault::Medium(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(Some(Found { bytes, object_len }))
        }
        .boxed()
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, Option<ByteLen>> {
        self.len(name).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a ObjectPrefix,
        after: Option<&'a ObjectName>,
        count_max: NonZeroUsize,
    ) -> Attempt<'a, Page> {
        async move {
            let prefix = path(prefix.as_str());
            let mut listing = match after {
                Some(after) => self
                    .store
                    .list_with_offset(Some(&prefix), &path(after.as_str())),
                None => self.store.list(Some(&prefix)),
            };
            let mut page = Page::default();
            while let Some(meta) = listing.try_next().await.map_err(refused)? {
                // What is no name is no object of ours.
                let Ok(name) = ObjectName::new(meta.location.as_ref()) else {
                    continue;
                };
                // Not every store leaves out the name that it begins after.
                if after.is_some_and(|after| name <= *after) {
                    continue;
                }
                if page.objects.last().is_some_and(|last| name <= last.name) {
                    return Err(Fault::NotDone(Cause::Unsorted));
                }
                if page.objects.len() == count_max.get() {
                    page.is_last = false;
                    break;
                }
                let len = ByteLen(meta.size);
                page.objects.push(ObjectEntry { name, len });
            }
            Ok(page)
        }
        .boxed()
    }

    fn list_prefixes<'a>(&'a self, prefix: &'a ObjectPrefix) -> Attempt<'a, Vec<ObjectPrefix>> {
        async move {
            let prefix = path(prefix.as_str());
            let listing = self.store.list_with_delimiter(Some(&prefix)).await;
            let listing = listing.map_err(refused)?;
            let mut prefixes: Vec<_> = listing
                .common_prefixes
                .iter()
                .filter_map(|prefix| ObjectPrefix::new(prefix.as_ref()).ok())
                .collect();
            prefixes.sort_unstable();
            Ok(prefixes)
        }
        .boxed()
    }

    fn settle<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, bool> {
        async move { Ok(self.len(name).await?.is_some()) }.boxed()
    }
}

/// Names and prefixes have no character that this would change.
fn path(name: &str) -> Path {
    Path::from(name)
}

/// `object_store` does not say whether a request that failed took effect, so it may have; but what was not
/// let in had none.
fn refused(error: Error) -> Fault {
    let status = match &error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Some(403),
        Error::NotFound { .. } => Some(404),
        _ => status_of(&error),
    };
    // A service that hands out tokens may not be found for a moment, too.
    let of_store = |error: &Error| {
        matches!(error, Error::NotFound { .. })
            || error.to_string().contains("Error performing list request")
    };
    let missing = status == Some(404) && of_store(&error);
    let source = Box::new(error);
    match status {
        Some(401 | 403) => Fault::NotDone(Cause::Denied { source }),
        _ if missing => Fault::NotDone(Cause::NoContainer { source }),
        _ => Fault::Unknown(Cause::Store { source }),
    }
}

/// The status of HTTP in an error that has no kind of its own, as those of listings have none: the crate keeps the
/// type that holds it to itself and says it in words. The tests against Azurite hold it to them.
fn status_of(error: &Error) -> Option<u16> {
    let said = error.to_string();
    let (_, status) = said.split_once("non-2xx status code: ")?;
    status.get(..3)?.parse().ok()
}
