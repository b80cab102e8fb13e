//! Writing a payload into a file: gathered into an aligned buffer, past the page cache.
//!
//! A vault's objects are written once, in megabytes, and not read again soon: the page cache only costs.
//! Measured in November 2026 (two cores, virtual disk, ext4, 32 MiB in 700 pieces, median of 48, sync
//! included): `writev` through the page cache 31 ms and 0.6 CPU s/GB; gathered into O_DIRECT writes 6 ms and
//! 0.07 CPU s/GB, the copy included. Where the filesystem has no O_DIRECT, and for small objects and the last
//! bytes of any, the pieces go through the page cache as they are.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::payload::Payload;

/// What offset, length and address of an O_DIRECT write are multiples of. Source: `open(2)`, "O_DIRECT": the
/// logical block size of the device; 4,096 is the largest in use. Unit: bytes.
const ALIGNMENT: usize = 4_096;

/// Length of one write. Larger ones were not faster. Unit: bytes.
const BUFFER_LEN: usize = 1 << 20;

/// Below this the two changes of the file's flags cost more than the page cache. Unit: bytes.
const DIRECT_LEN_MIN: u64 = 64 << 10;

/// Buffers that are not in use. As many exist as writes run at once.
#[derive(Debug)]
pub(super) struct Buffers {
    count_max: usize,
    free: Mutex<Vec<Buffer>>,
}

/// An aligned run of [`BUFFER_LEN`] bytes inside a longer one.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

/// Writes all of `payload` into `file`, which is new and empty.
pub(super) fn write(file: &File, payload: &Payload, buffers: &Buffers) -> io::Result<()> {
    if payload.len().0 < DIRECT_LEN_MIN || !set_direct(file, true)? {
        return write_pieces(file, payload.pieces());
    }
    let mut buffer = buffers.take();
    let written = write_gathered(file, payload, buffer.bytes_mut());
    buffers.give_back(buffer);
    match written {
        Ok(()) => Ok(()),
        // The device wants a larger alignment: begin again.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            set_direct(file, false)?;
            write_pieces(file, payload.pieces())
        }
        Err(error) => Err(error),
    }
}

/// Whole blocks past the page cache, the rest through it.
fn write_gathered(file: &File, payload: &Payload, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    let mut filled = 0;
    for mut piece in payload.pieces().iter().map(|piece| &piece[..]) {
        while !piece.is_empty() {
            let (head, rest) = piece.split_at(piece.len().min(buffer.len() - filled));
            buffer[filled..filled + head.len()].copy_from_slice(head);
            filled += head.len();
            piece = rest;
            if filled == buffer.len() {
                file.write_all_at(buffer, at)?;
                at += filled as u64;
                filled = 0;
            }
        }
    }
    let whole = filled - filled % ALIGNMENT;
    file.write_all_at(&buffer[..whole], at)?;
    if whole < filled {
        set_direct(file, false)?;
        file.write_all_at(&buffer[whole..filled], at + whole as u64)?;
    }
    Ok(())
}

/// All pieces through the page cache, from the start of the file, as many in one call as the kernel takes.
fn write_pieces(mut file: &File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = pieces
        .iter()
        .filter(|piece| !piece.is_empty())
        .map(|piece| IoSlice::new(piece))
        .collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => IoSlice::advance_slices(&mut left, len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Switches O_DIRECT on or off; `false` if the filesystem does not have it.
fn set_direct(file: &File, direct: bool) -> io::Result<bool> {
    let flags = if direct {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    match rustix::fs::fcntl_setfl(file, flags) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Buffers {
    pub(super) fn new(count_max: usize) -> Self {
        Self {
            count_max,
            free: Mutex::default(),
        }
    }

    fn take(&self) -> Buffer {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        free.unwrap_or_else(Buffer::new)
    }

    fn give_back(&self, buffer: Buffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.count_max {
            free.push(buffer);
        }
    }
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; BUFFER_LEN + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(
            start <= ALIGNMENT,
            "an address has an aligned one within one alignment"
        );
        Self { bytes, start }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..BUFFER_LEN]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    /// Bytes that differ from those at any other nearby place.
    fn pattern(len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0])
            .collect()
    }

    fn written(pieces: &[usize], buffers: &Buffers) -> (Vec<u8>, Vec<u8>) {
        let bytes = Bytes::from(pattern(pieces.iter().sum()));
        let mut at = 0;
        let pieces = pieces.iter().map(|len| {
            at += len;
            bytes.slice(at - len..at)
        });
        let payload = Payload::new(pieces.collect());
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.as_file(), &payload, buffers).unwrap();
        let mut found = Vec::new();
        file.reopen().unwrap().read_to_end(&mut found).unwrap();
        (bytes.to_vec(), found)
    }

    #[test]
    fn every_length_round_the_limits_is_written_whole() {
        let buffers = Buffers::new(1);
        let min = usize::try_from(DIRECT_LEN_MIN).unwrap();
        for len in [
            0,
            1,
            min - 1,
            min,
            min + 1,
            BUFFER_LEN - 1,
            BUFFER_LEN,
            BUFFER_LEN + 1,
        ] {
            let (expected, found) = written(&[len], &buffers);
            assert!(expected == found, "{len}");
        }
        assert_eq!(buffers.free.lock().unwrap().len(), 1);
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_written_whole() {
        let buffers = Buffers::new(1);
        for pieces in [[7; 3_000].as_slice(), &[1_003; 3_000]] {
            let (expected, found) = written(pieces, &buffers);
            assert!(expected == found, "{}", pieces[0]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn pieces_of_any_length_are_written_whole(
            pieces in prop::collection::vec(0_usize..300_000, 0..12)
        ) {
            let (expected, found) = written(&pieces, &Buffers::new(1));
            prop_assert!(expected == found);
        }
    }
}
