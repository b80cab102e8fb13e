//! Policy of a manifest: which points are kept, and which ladder takes the place of the one that holds.
//!
//! ```text
//! flags (4: bit 0: another ladder follows), takes effect at (8; 0 where none follows)  12 bytes
//! one ladder, or two:
//!   continuous (8: seconds), app_count (4), rung_count (2), app_rung_count (2)        16 bytes
//!   rung_count + app_rung_count ×  slot (8: seconds; 0: a month), reach (8: seconds)  16 bytes
//! ```

use everpoint_units::WallTime;

use crate::DecodeError;
use crate::cursor::{Put, Reader};

const WHAT: &str = "policy of a manifest";

/// See the module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyRecord {
    pub ladder: LadderRecord,
    /// What takes its place, and when.
    pub next: Option<(LadderRecord, WallTime)>,
}

/// A ladder, not yet checked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LadderRecord {
    /// Unit: seconds.
    pub continuous_s: u64,
    pub app_count: u32,
    pub rungs: Vec<RungRecord>,
    pub app_rungs: Vec<RungRecord>,
}

/// A rung, not yet checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RungRecord {
    /// Unit: seconds; 0: a month.
    pub slot_s: u64,
    /// Unit: seconds.
    pub reach_s: u64,
}

impl PolicyRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(u32::from(self.next.is_some()));
        out.put_u64(self.next.as_ref().map_or(0, |(_, at)| at.0));
        self.ladder.put(&mut out);
        if let Some((next, _)) = &self.next {
            next.put(&mut out);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        let (flags, at) = (reader.u32()?, reader.u64()?);
        if 1 < flags || (flags == 0 && at != 0) {
            return Err(reader.invalid("unknown flags, or a time at which nothing happens"));
        }
        let ladder = LadderRecord::read(&mut reader)?;
        let next = (flags == 1).then(|| LadderRecord::read(&mut reader));
        let next = next.transpose()?.map(|next| (next, WallTime(at)));
        reader.end()?;
        Ok(Self { ladder, next })
    }
}

impl LadderRecord {
    fn put(&self, out: &mut Vec<u8>) {
        let short = |len: usize| u16::try_from(len).expect("a ladder has at most 16 rungs");
        out.put_u64(self.continuous_s);
        out.put_u32(self.app_count);
        out.put_u16(short(self.rungs.len()));
        out.put_u16(short(self.app_rungs.len()));
        for rung in self.rungs.iter().chain(&self.app_rungs) {
            out.put_u64(rung.slot_s);
            out.put_u64(rung.reach_s);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (continuous_s, app_count) = (reader.u64()?, reader.u32()?);
        let (rung_count, app_rung_count) = (reader.u16()?, reader.u16()?);
        let rungs = |reader: &mut Reader<'_>, count: u16| {
            let rungs = (0..count).map(|_| {
                Ok(RungRecord {
                    slot_s: reader.u64()?,
                    reach_s: reader.u64()?,
                })
            });
            rungs.collect::<Result<Vec<_>, DecodeError>>()
        };
        Ok(Self {
            continuous_s,
            app_count,
            rungs: rungs(reader, rung_count)?,
            app_rungs: rungs(reader, app_rung_count)?,
        })
    }
}
