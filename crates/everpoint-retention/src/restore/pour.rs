//! One batch on one thread: open every frame, compare every digest, then write what is not zero, or give it out.

use bytes::Bytes;
use everpoint_format::digest::{DigestKey, PIECE_LEN};
use everpoint_units::{ByteLen, ByteOffset};
use everpoint_vault::frames::{Batch, IntegrityError, open_frame};

use super::RestoreError;
use super::fetch::Poured;
use super::image::Image;

/// Bytes that go to one place of the image.
pub(super) struct Part {
    pub(super) at: ByteOffset,
    pub(super) bytes: Bytes,
}

const ZEROES: [u8; PIECE_LEN] = [0; PIECE_LEN];

/// Verifies a whole batch, then writes what is not zero of it. `bytes` is what lies at the batch's place.
///
/// # Errors
///
/// [`RestoreError::Integrity`] before anything is written, [`RestoreError::File`] after.
pub(super) fn pour(
    batch: &Batch,
    bytes: &Bytes,
    key: &DigestKey,
    image: &Image,
) -> Result<Poured, RestoreError> {
    let (mut poured, parts) = open(batch, bytes, key, cut_out_zeroes)?;
    let written: usize = parts.iter().map(|part| part.bytes.len()).sum();
    image.write(&parts)?;
    poured.written = ByteLen(written as u64);
    Ok(poured)
}

/// Verifies a whole batch, and gives all that it holds, by place.
///
/// # Errors
///
/// The first thing that is not as it was stored.
pub(super) fn open_all(
    batch: &Batch,
    bytes: &Bytes,
    key: &DigestKey,
) -> Result<(Poured, Vec<Part>), IntegrityError> {
    open(batch, bytes, key, |at, bytes, parts| {
        let bytes = bytes.clone();
        parts.push(Part { at, bytes });
    })
}

fn open(
    batch: &Batch,
    bytes: &Bytes,
    key: &DigestKey,
    take: impl Fn(ByteOffset, &Bytes, &mut Vec<Part>),
) -> Result<(Poured, Vec<Part>), IntegrityError> {
    let mut poured = Poured::default();
    let mut parts = Vec::new();
    for job in &batch.jobs {
        let raw = open_frame(&batch.object, job, bytes, batch.at, key)?;
        poured.read.0 += u64::from(job.frame.stored_len);
        for cut in &job.cuts {
            poured.data.0 += cut.len as u64;
            let cut_out = raw.slice(cut.raw_at..cut.raw_at + cut.len);
            take(cut.disk_at, &cut_out, &mut parts);
        }
    }
    parts.sort_unstable_by_key(|part| part.at);
    Ok((poured, parts))
}

/// Adds the parts of `bytes` that are not zero, seen in pieces of 4 KiB of the disk: what is not written
/// stays a hole.
fn cut_out_zeroes(disk_at: ByteOffset, bytes: &Bytes, parts: &mut Vec<Part>) {
    let mut part_at = None;
    let mut at = 0;
    while at < bytes.len() {
        let in_piece =
            usize::try_from((disk_at.0 + at as u64) % PIECE_LEN as u64).expect("less than a piece");
        let end = (at + PIECE_LEN - in_piece).min(bytes.len());
        let is_zero = bytes[at..end] == ZEROES[..end - at];
        match (is_zero, part_at) {
            (false, None) => part_at = Some(at),
            (true, Some(from)) => {
                push(disk_at, bytes, from..at, parts);
                part_at = None;
            }
            _ => (),
        }
        at = end;
    }
    if let Some(from) = part_at {
        push(disk_at, bytes, from..bytes.len(), parts);
    }
}

fn push(disk_at: ByteOffset, bytes: &Bytes, range: std::ops::Range<usize>, parts: &mut Vec<Part>) {
    parts.push(Part {
        at: ByteOffset(disk_at.0 + range.start as u64),
        bytes: bytes.slice(range),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_pieces_are_left_out_and_pieces_are_those_of_the_disk() {
        let mut bytes = vec![0; 5 * PIECE_LEN];
        // Seen from the disk the bytes begin in the middle of a piece.
        let disk_at = ByteOffset(512);
        bytes[0] = 1;
        bytes[2 * PIECE_LEN - 512] = 2;
        bytes[3 * PIECE_LEN - 513] = 3;
        let mut parts = Vec::new();
        cut_out_zeroes(disk_at, &bytes.into(), &mut parts);
        let places: Vec<_> = parts
            .iter()
            .map(|part| (part.at.0, part.bytes.len()))
            .collect();
        assert_eq!(places, [(512, PIECE_LEN - 512), (2 * 4_096, 4_096)]);
    }

    #[test]
    fn bytes_without_zero_pieces_are_one_part() {
        let mut parts = Vec::new();
        cut_out_zeroes(ByteOffset(1_024), &vec![7; 100_352].into(), &mut parts);
        assert_eq!((parts.len(), parts[0].bytes.len()), (1, 100_352));
    }
}
