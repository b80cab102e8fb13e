//! Marks of a map layer: what its disk's blocks said besides extents, in the layer's range of `Seq`.
//!
//! ```text
//! time_count (4), request_count (4), bookmark_count (4), reserved (4)              16 bytes
//! time_count ×      seq (8) of a block's last change, true time of its capture (8)  16 bytes
//! request_count ×   first (8) and last seq (8) of a request of several changes,
//!                   bit 0: the last one ends it (4), copy (4)                       24 bytes
//! bookmark_count ×  seq (8), true time (8), class (1: 1 crash-, 2 app-, 3 group-consistent),
//!                   name_len (1), name (UTF-8)                              18 bytes and name
//! ```
//!
//! Times are microseconds since 1970 UTC. All rise by `seq`, also from one part of a layer's marks to the next. `copy`:
//! how many copies that build on nothing the disk had begun by then; of a request that reaches to where a later copy
//! begins, nothing counts from there on.

use everpoint_units::{Seq, WallTime};

use crate::DecodeError;
use crate::cursor::{Put, Reader};
use crate::record::Consistency;

/// Most bytes of one part of a layer's marks, before it is compressed. Unit: bytes.
pub const MARKS_LEN_MAX: usize = 512 << 10;

const WHAT: &str = "marks of a map layer";
const TIME_LEN: usize = 16;
const REQUEST_LEN: usize = 24;
const BOOKMARK_LEN: usize = 18;

/// See the module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Marks {
    pub times: Vec<(Seq, WallTime)>,
    pub requests: Vec<RequestMark>,
    pub bookmarks: Vec<BookmarkMark>,
}

/// A request of several changes: no point lies inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestMark {
    pub first: Seq,
    pub last: Seq,
    /// Whether the last change ended it.
    pub ends: bool,
    /// How many copies that build on nothing the disk had begun, after the first, when this was written.
    pub copy: u32,
}

/// A named instant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BookmarkMark {
    pub seq: Seq,
    pub at: WallTime,
    pub class: Consistency,
    pub name: String,
}

impl Marks {
    /// Whether there is nothing to say.
    pub const fn is_empty(&self) -> bool {
        self.times.is_empty() && self.requests.is_empty() && self.bookmarks.is_empty()
    }

    /// Its length before compression. Unit: bytes.
    pub fn encoded_len(&self) -> usize {
        let names: usize = self.bookmarks.iter().map(|mark| mark.name.len()).sum();
        let fixed = self.times.len() * TIME_LEN + self.requests.len() * REQUEST_LEN;
        16 + fixed + self.bookmarks.len() * BOOKMARK_LEN + names
    }

    /// The bytes to compress.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.put_len(self.times.len());
        out.put_len(self.requests.len());
        out.put_len(self.bookmarks.len());
        out.put_u32(0);
        for (seq, at) in &self.times {
            out.put_u64(seq.0);
            out.put_u64(at.0);
        }
        for request in &self.requests {
            out.put_u64(request.first.0);
            out.put_u64(request.last.0);
            out.put_u32(u32::from(request.ends));
            out.put_u32(request.copy);
        }
        for mark in &self.bookmarks {
            out.put_u64(mark.seq.0);
            out.put_u64(mark.at.0);
            let len = u8::try_from(mark.name.len()).expect("names are at most 255 bytes");
            out.put(&[mark.class.code(), len]);
            out.put(mark.name.as_bytes());
        }
        out
    }

    /// Reads marks that were unpacked.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        let time_count = reader.count(TIME_LEN)?;
        let request_count = reader.count(REQUEST_LEN)?;
        let bookmark_count = reader.count(BOOKMARK_LEN)?;
        reader.reserved(4)?;
        let times = (0..time_count).map(|_| Ok((Seq(reader.u64()?), WallTime(reader.u64()?))));
        let times: Vec<_> = times.collect::<Result<_, DecodeError>>()?;
        let requests = (0..request_count).map(|_| RequestMark::read(&mut reader));
        let requests: Vec<_> = requests.collect::<Result<_, _>>()?;
        let bookmarks = (0..bookmark_count).map(|_| BookmarkMark::read(&mut reader));
        let bookmarks: Vec<_> = bookmarks.collect::<Result<_, _>>()?;
        reader.end()?;
        let rise = times.is_sorted_by_key(|(seq, _)| *seq)
            && requests.is_sorted_by_key(|request| request.first)
            && bookmarks.is_sorted_by_key(|mark| mark.seq);
        if !rise {
            return Err(reader.invalid("marks do not rise"));
        }
        Ok(Self {
            times,
            requests,
            bookmarks,
        })
    }
}

impl RequestMark {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (first, last) = (Seq(reader.u64()?), Seq(reader.u64()?));
        let (flags, copy) = (reader.u32()?, reader.u32()?);
        if 1 < flags || last < first {
            return Err(reader.invalid("a request ends before it begins, or has unknown flags"));
        }
        let ends = flags == 1;
        Ok(Self {
            first,
            last,
            ends,
            copy,
        })
    }
}

impl BookmarkMark {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (seq, at) = (Seq(reader.u64()?), WallTime(reader.u64()?));
        let [class, len] = reader.array()?;
        let class = Consistency::from_code(class);
        let class = class.ok_or_else(|| reader.invalid("a bookmark of no known class"))?;
        let name = std::str::from_utf8(reader.take(usize::from(len))?);
        let name = name
            .map_err(|_| reader.invalid("a name is not UTF-8"))?
            .to_owned();
        Ok(Self {
            seq,
            at,
            class,
            name,
        })
    }
}
