//! Frames that were opened and verified, within a bound of bytes: what was used longest ago goes first.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use everpoint_units::ByteLen;

use super::run_map::FrameId;

/// What an entry takes besides the frame's bytes. Unit: bytes.
const ENTRY_LEN: u64 = 160;

/// See the module.
#[derive(Debug)]
pub(super) struct FrameCache {
    bytes_max: u64,
    taken: u64,
    uses: u64,
    frames: HashMap<FrameId, Cached>,
    /// By last use, oldest first.
    by_use: BTreeMap<u64, FrameId>,
    evicted_count: u64,
}

#[derive(Debug)]
struct Cached {
    bytes: Bytes,
    used: u64,
}

impl FrameCache {
    /// An empty cache.
    pub(super) fn new(bytes_max: ByteLen) -> Self {
        Self {
            bytes_max: bytes_max.0,
            taken: 0,
            uses: 0,
            frames: HashMap::new(),
            by_use: BTreeMap::new(),
            evicted_count: 0,
        }
    }

    /// The frame, which is the newest now.
    pub(super) fn get(&mut self, id: FrameId) -> Option<Bytes> {
        let cached = self.frames.get_mut(&id)?;
        self.by_use.remove(&cached.used);
        self.uses += 1;
        cached.used = self.uses;
        self.by_use.insert(self.uses, id);
        Some(cached.bytes.clone())
    }

    /// Whether it is there. This is no use of it.
    pub(super) fn holds(&self, id: FrameId) -> bool {
        self.frames.contains_key(&id)
    }

    /// Keeps a frame that is not there, if it fits at all, and lets others go for it.
    pub(super) fn put(&mut self, id: FrameId, bytes: Bytes) {
        let len = cost(&bytes);
        if self.bytes_max < len || self.holds(id) {
            return;
        }
        while self.bytes_max < self.taken + len {
            let (_, oldest) = self.by_use.pop_first().expect("what is taken has an owner");
            let gone = self.frames.remove(&oldest).expect("both lists agree");
            self.taken -= cost(&gone.bytes);
            self.evicted_count += 1;
        }
        self.taken += len;
        self.uses += 1;
        self.by_use.insert(self.uses, id);
        let used = self.uses;
        self.frames.insert(id, Cached { bytes, used });
    }

    /// What it takes now.
    pub(super) const fn taken(&self) -> ByteLen {
        ByteLen(self.taken)
    }

    /// How many frames had to go.
    pub(super) const fn evicted_count(&self) -> u64 {
        self.evicted_count
    }
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Bytes {
        vec![1; len].into()
    }

    fn room_for(count: u64) -> FrameCache {
        FrameCache::new(ByteLen(count * (1_000 + ENTRY_LEN)))
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = room_for(3);
        let [a, b, c, d] = FrameId::first();
        for id in [a, b, c] {
            cache.put(id, frame(1_000));
        }
        assert!(cache.get(a).is_some());
        cache.put(d, frame(1_000));
        let held = [a, b, c, d].map(|id| cache.holds(id));
        assert_eq!(
            (held, cache.evicted_count()),
            ([true, false, true, true], 1)
        );
    }

    #[test]
    fn it_never_takes_more_than_its_bound() {
        let mut cache = room_for(3);
        let [a, b, c, d] = FrameId::first();
        for (id, len) in [(a, 1_000), (b, 2_000), (c, 100), (d, 3_300)] {
            cache.put(id, frame(len));
            assert!(
                cache.taken().0 <= 3 * (1_000 + ENTRY_LEN),
                "{:?}",
                cache.taken()
            );
        }
        assert_eq!(cache.taken(), ByteLen(3_300 + ENTRY_LEN));
    }

    #[test]
    fn a_frame_that_does_not_fit_at_all_drives_nothing_out() {
        let mut cache = room_for(1);
        let [a, b, ..] = FrameId::first();
        cache.put(a, frame(1_000));
        cache.put(b, frame(1_001));
        assert_eq!([a, b].map(|id| cache.holds(id)), [true, false]);
    }
}
