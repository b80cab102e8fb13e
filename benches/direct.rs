//! The bare device under log and vault: files of zeroes, opened for direct writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Direct writes begin and end at multiples of this. Unit: bytes.
const ALIGN: usize = 4_096;

/// A buffer that direct writes may come from.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` bytes that are not zero, in whole steps of 4 KiB.
    pub fn new(len: usize) -> Self {
        let len = len.next_multiple_of(ALIGN);
        let bytes = vec![0x5a; len + ALIGN];
        let from = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, from, len }
    }

    /// All of it.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.len]
    }
}

/// A new file of `len` zeroes that was synced, open for direct writes, or for buffered ones where the
/// filesystem has no others; true if they are direct.
///
/// # Errors
///
/// When it cannot be made.
pub fn zeroed(path: &Path, len: u64) -> io::Result<(File, bool)> {
    let file = File::create(path)?;
    let zeroes = vec![0; 4 << 20];
    let mut at = 0;
    while at < len {
        let count = (len - at).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..usize::try_from(count).expect("64-bit")], at)?;
        at += count;
    }
    file.sync_all()?;
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag");
    match OpenOptions::new()
        .write(true)
        .custom_flags(direct)
        .open(path)
    {
        Ok(opened) => Ok((opened, true)),
        Err(_) => Ok((file, false)),
    }
}
