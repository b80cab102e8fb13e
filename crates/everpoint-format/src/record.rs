//! Change records: what one change did, in 32 bytes and, for some kinds, a text.
//!
//! ```text
//! offset  size  field
//!      0     8  seq        position in the machine's write order, above the record before
//!      8     8  start      first sector; resize and disk begin: size of the disk in sectors
//!     16     4  sectors    length; 0 for kinds without an extent
//!     20     1  kind       1 data, 2 zero, 3 discard, 4 resize, 5 reference, 6 bookmark,
//!                          7 resync begin, 8 resync complete, 9 disk begin, 10 disk end
//!     21     1  flags      bit 0: ends a guest request; other bits 0
//!     22     1  class      bookmark: 1 crash-, 2 app-, 3 group-consistent; else 0
//!     23     1  text_len   bytes in the text area: bookmark and disk begin a UTF-8 name, resync
//!                          begin nothing or the position that the generation builds on:
//!                          generation (16), block_no (8), chain value of that block (8)
//!     24     8  aux        bookmark: time by the machine's clock, as its block's capture times are,
//!                          microseconds since 1970 UTC; the block's clock offset makes it true;
//!                          disk begin: block size (512 or 4096); reference: index into the
//!                          section's places; else 0
//!
//! The bytes of data records lie one after the other, without gaps, in the raw payload; no other kind
//! has bytes there.
//! ```

use everpoint_units::{Extent, Lba, Seq, WallTime};

use crate::cursor::{Put, Reader};
use crate::position::POSITION_LEN;
use crate::{DecodeError, DiskPosition};

/// Encoded length of a record without its text. Unit: bytes.
pub const RECORD_LEN: usize = 32;
/// Longest name of a bookmark or disk. Unit: bytes of UTF-8.
pub const NAME_LEN_MAX: usize = 255;

const FLAG_ENDS_REQUEST: u8 = 1;

/// One change of one disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its place in the machine's order.
    pub seq: Seq,
    /// Whether a guest request is complete with it: only such a `Seq` is a recovery point.
    pub ends_request: bool,
    /// What happened.
    pub change: Change,
}

/// What a change did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Bytes were written; they lie in the block's payload.
    Data(Extent),
    /// The extent reads as zeroes.
    Zero(Extent),
    /// The extent was given back and reads as zeroes.
    Discard(Extent),
    /// The disk has this many sectors from here on.
    Resize { sectors: u64 },
    /// The extent has bytes that an earlier place holds. Only in a journal's index.
    Reference { extent: Extent, place_index: u64 },
    /// An instant with a name; `at` by the machine's clock, which the block's clock offset makes true.
    Bookmark {
        class: Consistency,
        name: Box<str>,
        at: WallTime,
    },
    /// Order was lost, or never there: no point until the record `ResyncComplete`. `base` is the
    /// position that this generation builds on; `None` when the server held nothing of the disk.
    ResyncBegin { base: Option<DiskPosition> },
    /// The copy is level again: from here on every request is a recovery point.
    ResyncComplete,
    /// The disk joins its machine's cuts.
    DiskBegin {
        sectors: u64,
        block_size: u32,
        name: Box<str>,
    },
    /// The disk leaves its machine's cuts.
    DiskEnd,
}

/// What a bookmark promises about the applications on the machine.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Consistency {
    /// As after a power cut.
    Crash,
    /// Applications were quiesced.
    App,
    /// One cut over several machines; counts only with its proof in the vault.
    Group,
}

impl Change {
    /// The sectors it touches; `None` for kinds without an extent.
    pub const fn extent(&self) -> Option<Extent> {
        match self {
            Self::Data(extent)
            | Self::Zero(extent)
            | Self::Discard(extent)
            | Self::Reference { extent, .. } => Some(*extent),
            _ => None,
        }
    }

    /// Bytes in the raw payload. Unit: bytes.
    pub const fn raw_len(&self) -> u64 {
        match self {
            Self::Data(extent) => extent.byte_len().0,
            _ => 0,
        }
    }
}

impl Record {
    /// Appends the fixed part to `out` and the text, if any, to `texts`.
    ///
    /// # Panics
    ///
    /// If a name is longer than [`NAME_LEN_MAX`]: the caller's to check.
    pub(crate) fn put(&self, out: &mut Vec<u8>, texts: &mut Vec<u8>) {
        let extent = |extent: &Extent| (extent.start().sector(), extent.sectors().get());
        let before = texts.len();
        let (kind, (start, sectors), class, aux) = match &self.change {
            Change::Data(at) => (1, extent(at), 0, 0),
            Change::Zero(at) => (2, extent(at), 0, 0),
            Change::Discard(at) => (3, extent(at), 0, 0),
            Change::Resize { sectors } => (4, (*sectors, 0), 0, 0),
            Change::Reference {
                extent: at,
                place_index,
            } => (5, extent(at), 0, *place_index),
            Change::Bookmark { class, name, at } => {
                texts.put(name.as_bytes());
                (6, (0, 0), class.code(), at.0)
            }
            Change::ResyncBegin { base } => {
                if let Some(base) = base {
                    base.put(texts);
                }
                (7, (0, 0), 0, 0)
            }
            Change::ResyncComplete => (8, (0, 0), 0, 0),
            Change::DiskBegin {
                sectors,
                block_size,
                name,
            } => {
                texts.put(name.as_bytes());
                (9, (*sectors, 0), 0, u64::from(*block_size))
            }
            Change::DiskEnd => (10, (0, 0), 0, 0),
        };
        let text_len = u8::try_from(texts.len() - before).expect("names are at most 255 bytes");

        out.put_u64(self.seq.0);
        out.put_u64(start);
        out.put_u32(sectors);
        let flags = if self.ends_request {
            FLAG_ENDS_REQUEST
        } else {
            0
        };
        out.put(&[kind, flags, class, text_len]);
        out.put_u64(aux);
    }

    /// Reads one record from `records` and its text from `texts`.
    pub(crate) fn read(
        records: &mut Reader<'_>,
        texts: &mut Reader<'_>,
    ) -> Result<Self, DecodeError> {
        let seq = Seq(records.u64()?);
        let start = records.u64()?;
        let sectors = records.u32()?;
        let [kind, flags, class, text_len] = records.array()?;
        let aux = records.u64()?;
        let text = texts.take(usize::from(text_len))?;
        let invalid = |rule| Err(records.invalid(rule));

        if flags & !FLAG_ENDS_REQUEST != 0 || seq == Seq::ZERO {
            return invalid("a record has unknown flags, or no seq");
        }
        let has_text = matches!(kind, 6 | 7 | 9);
        if (class != 0) != (kind == 6) || (!has_text && !text.is_empty()) {
            return invalid("a record has a class or text that its kind has not");
        }
        if !matches!(kind, 5 | 6 | 9) && aux != 0 {
            return invalid("a record has an aux value that its kind has not");
        }
        let change = match kind {
            1 | 2 | 3 | 5 => {
                let Some(extent) = Lba::new(start)
                    .zip(std::num::NonZeroU32::new(sectors))
                    .and_then(|(start, sectors)| Extent::new(start, sectors))
                else {
                    return invalid("an extent is empty, too long or off every disk");
                };
                match kind {
                    1 => Change::Data(extent),
                    2 => Change::Zero(extent),
                    3 => Change::Discard(extent),
                    _ => Change::Reference {
                        extent,
                        place_index: aux,
                    },
                }
            }
            _ if sectors != 0 => return invalid("a record has an extent that its kind has not"),
            4 | 9 => {
                if start == 0 || Lba::new(start).is_none() {
                    return invalid("a disk has an impossible size");
                }
                if kind == 4 {
                    Change::Resize { sectors: start }
                } else {
                    let block_size = match aux {
                        512 => 512,
                        4_096 => 4_096,
                        _ => return invalid("a disk's block size is neither 512 nor 4096"),
                    };
                    Change::DiskBegin {
                        sectors: start,
                        block_size,
                        name: utf8(records, text)?,
                    }
                }
            }
            _ if start != 0 => return invalid("a record has a start that its kind has not"),
            6 => Change::Bookmark {
                class: Consistency::from_code(class)
                    .ok_or_else(|| records.invalid("a bookmark has an unknown class"))?,
                name: utf8(records, text)?,
                at: WallTime(aux),
            },
            7 => Change::ResyncBegin {
                base: read_base(records, text)?,
            },
            8 => Change::ResyncComplete,
            10 => Change::DiskEnd,
            _ => return invalid("a record has an unknown kind"),
        };
        Ok(Self {
            seq,
            ends_request: flags & FLAG_ENDS_REQUEST != 0,
            change,
        })
    }
}

impl Consistency {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Crash => 1,
            Self::App => 2,
            Self::Group => 3,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Crash),
            2 => Some(Self::App),
            3 => Some(Self::Group),
            _ => None,
        }
    }

    /// The word that the command line and its JSON use.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::App => "app",
            Self::Group => "group",
        }
    }
}

fn utf8(records: &Reader<'_>, text: &[u8]) -> Result<Box<str>, DecodeError> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(records.invalid("a name is not UTF-8")),
    }
}

fn read_base(records: &Reader<'_>, text: &[u8]) -> Result<Option<DiskPosition>, DecodeError> {
    match text.len() {
        0 => Ok(None),
        POSITION_LEN => Ok(Some(DiskPosition::read(&mut Reader::new(
            "base position",
            text,
        ))?)),
        _ => Err(records.invalid("a resync builds on something that is no position")),
    }
}
