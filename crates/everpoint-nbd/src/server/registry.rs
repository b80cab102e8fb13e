//! The exports that are attached now, by name.
//!
//! Each is kept with its own kind erased once: a connection calls [`Entry::serve`] a single time,
//! and everything below that call knows the kind again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use super::connection::{self, ConnectionLimits, Ended};
use crate::export::{Export, ExportInfo};
use crate::request::Terms;
use crate::stream::Stream;

/// An attached export of any kind.
pub(super) trait Entry: Send + Sync {
    fn describe(&self) -> ExportInfo;

    /// Serves one connection to its end.
    fn serve(self: Arc<Self>, stream: Stream, session: Session) -> BoxFuture<'static, Ended>;

    /// Tells every connection to finish, and waits until all have. Cancel-safe: the order stands.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// What a connection needs besides its socket and its export.
pub(super) struct Session {
    pub(super) terms: Terms,
    pub(super) limits: ConnectionLimits,
    pub(super) budget: Arc<Semaphore>,
}

#[derive(Default)]
pub(super) struct Registry {
    entries: RwLock<BTreeMap<String, Arc<dyn Entry>>>,
}

struct Attached<E> {
    export: Arc<E>,
    /// True once the export is detached. Each connection holds a receiver for as long as it lives,
    /// so "all receivers are gone" is "nobody uses the export".
    detached: watch::Sender<bool>,
}

/// Why a name could not be added.
pub(super) enum AddError {
    Taken,
    Full,
}

impl Registry {
    pub(super) fn add<E: Export>(
        &self,
        name: &str,
        export: Arc<E>,
        count_max: usize,
    ) -> Result<(), AddError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(name) {
            return Err(AddError::Taken);
        }
        if entries.len() >= count_max {
            return Err(AddError::Full);
        }
        let detached = watch::Sender::new(false);
        entries.insert(name.to_owned(), Arc::new(Attached { export, detached }));
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> Option<Arc<dyn Entry>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.remove(name)
    }

    pub(super) fn remove_all(&self) -> Vec<Arc<dyn Entry>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *entries).into_values().collect()
    }

    /// Finds an export and the name under which it is listed. The empty name is the only export's,
    /// if there is only one.
    pub(super) fn find(&self, name: &str) -> Option<(String, Arc<dyn Entry>)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let found = match entries.get_key_value(name) {
            None if name.is_empty() && entries.len() == 1 => entries.first_key_value(),
            found => found,
        };
        found.map(|(name, entry)| (name.clone(), Arc::clone(entry)))
    }

    /// All of them, by name.
    pub(super) fn list(&self) -> Vec<(String, Arc<dyn Entry>)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .map(|(name, entry)| (name.clone(), Arc::clone(entry)))
            .collect()
    }
}

impl<E: Export> Entry for Attached<E> {
    fn describe(&self) -> ExportInfo {
        self.export.describe()
    }

    fn serve(self: Arc<Self>, stream: Stream, session: Session) -> BoxFuture<'static, Ended> {
        let mut detached = self.detached.subscribe();
        Box::pin(async move {
            let stop = async {
                // An error means that the sender is gone, and this future holds it.
                let _ = detached.wait_for(|detached| *detached).await;
            };
            let Session {
                terms,
                limits,
                budget,
            } = &session;
            connection::serve(&*self.export, stream, terms, limits, budget, stop).await
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.detached.send_replace(true);
        Box::pin(self.detached.closed())
    }
}
