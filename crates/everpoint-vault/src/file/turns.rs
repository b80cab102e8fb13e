//! Creates that are still running, so that a repetition waits for them and does not run beside them.
//!
//! An attempt that hangs in the kernel cannot be stopped. Were each repetition to begin anew, a frozen
//! filesystem would collect one parked thread for each, and one that is merely slower than the timeout
//! would never get an object done. So a repetition, recognised by name and by sharing its payload, waits until
//! the attempt before it has ended, and then finds the object or makes it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::name::ObjectName;
use crate::payload::{Payload, PayloadIdentity};

/// The creates that run, or wait for one that runs.
#[derive(Debug, Default)]
pub(super) struct Turns {
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    name: ObjectName,
    payload: PayloadIdentity,
    /// Gone when nobody runs or waits any more.
    turn: Weak<tokio::sync::Mutex<()>>,
}

/// The right to create an object; held while the job runs.
#[derive(Debug)]
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
    /// Whether an earlier attempt at the same create was waited for, and may have taken effect.
    pub(super) has_waited: bool,
}

impl Turns {
    /// Waits for an earlier attempt at the same create, if one still runs.
    pub(super) async fn take(&self, name: &ObjectName, payload: &Payload) -> Turn {
        let turn = self.turn(name, payload);
        match Arc::clone(&turn).try_lock_owned() {
            Ok(guard) => Turn {
                _guard: guard,
                has_waited: false,
            },
            Err(_) => Turn {
                _guard: turn.lock_owned().await,
                has_waited: true,
            },
        }
    }

    fn turn(&self, name: &ObjectName, payload: &Payload) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|running| 0 < running.turn.strong_count());
        let payload = payload.identity();
        let same = running
            .iter()
            .find(|running| running.name == *name && running.payload == payload);
        if let Some(turn) = same.and_then(|running| running.turn.upgrade()) {
            return turn;
        }
        let turn = Arc::default();
        running.push(Running {
            name: name.clone(),
            payload,
            turn: Arc::downgrade(&turn),
        });
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn name(leaf: &str) -> ObjectName {
        ObjectName::new(&format!("v1/{leaf}")).unwrap()
    }

    #[tokio::test]
    async fn only_the_same_create_waits() {
        let turns = Turns::default();
        let payload = Payload::from(b"bytes".to_vec());
        let first = turns.take(&name("a"), &payload).await;
        assert!(!first.has_waited);
        let repetition = payload.clone();
        let again = name("a");
        let mut waiting = std::pin::pin!(turns.take(&again, &repetition));
        assert!(waiting.as_mut().now_or_never().is_none());
        let other = Payload::from(b"bytes".to_vec());
        assert!(
            !turns.take(&name("a"), &other).await.has_waited,
            "a payload of its own"
        );
        assert!(
            !turns.take(&name("b"), &payload).await.has_waited,
            "a name of its own"
        );
        drop(first);
        assert!(waiting.await.has_waited);
    }

    #[tokio::test]
    async fn what_has_ended_is_forgotten() {
        let turns = Turns::default();
        for count in 0..100_u32 {
            let payload = Payload::from(count.to_le_bytes().to_vec());
            let turn = turns.take(&name("a"), &payload).await;
            assert!(!turn.has_waited);
        }
        assert_eq!(turns.running.lock().unwrap().len(), 1);
    }
}
