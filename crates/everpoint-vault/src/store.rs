//! The backend on the `object_store` crate: `memory://` today, Azure and S3 behind the same code later.
//!
//! Durability is the store's: what it has acknowledged it keeps, so comparing needs no sync and settling
//! has nothing to do.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

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

    async fn len(&self, name: &ObjectName) -> Result<Option<ByteLen>, Fault> {
        match self.store.head(&path(name.as_str())).await {
            Ok(meta) => Ok(Some(ByteLen(meta.size))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(refused(error)),
        }
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
            Err(Error::NotFound { .. }) => Ok(None),
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
                .expect("memory does not fail to read");
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

/// `object_store` does not say whether a request that failed took effect, so it may have.
fn refused(error: Error) -> Fault {
    Fault::Unknown(Cause::Store {
        source: Box::new(error),
    })
}
