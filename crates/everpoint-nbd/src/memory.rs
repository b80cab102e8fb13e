//! An export in memory: the plain truth that other exports are compared with.
//!
//! Sparse by 4 KiB pages: a page that was never written, or was trimmed or zeroed whole, is a hole.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use everpoint_units::{ByteLen, ByteOffset};

use crate::Errno;
use crate::export::{Allocation, Export, ExportInfo, ZeroFlags, ZeroSupport};

const PAGE_LEN: usize = 4_096;

/// Pages that one status query looks at: 256 MiB.
const STATUS_PAGES_MAX: usize = 1 << 16;

/// A disk in memory. Every request is done when its future is first polled.
pub struct MemoryExport {
    info: ExportInfo,
    pages: Mutex<BTreeMap<u64, Box<[u8; PAGE_LEN]>>>,
}

/// A part of one page.
struct Part {
    page: u64,
    /// Unit: bytes, within the page.
    from: usize,
    to: usize,
    /// How much of the request lies before it. Unit: bytes.
    done: usize,
}

impl MemoryExport {
    /// An empty disk of `size`, fast at zeroes.
    pub fn new(size: ByteLen) -> Self {
        let mut info = ExportInfo::disk(size);
        info.zeroes = ZeroSupport::Fast;
        Self::with_info(info)
    }

    /// An empty disk that says this of itself.
    pub fn with_info(info: ExportInfo) -> Self {
        Self {
            info,
            pages: Mutex::default(),
        }
    }

    /// All of it.
    ///
    /// # Panics
    ///
    /// If it is larger than memory can hold.
    pub fn contents(&self) -> Vec<u8> {
        let len = usize::try_from(self.info.size.0).expect("a disk of a test fits in memory");
        let mut contents = vec![0; len];
        for (&page, bytes) in &*self.lock() {
            let at = usize::try_from(page).expect("inside the disk") * PAGE_LEN;
            let len = PAGE_LEN.min(len - at);
            contents[at..at + len].copy_from_slice(&bytes[..len]);
        }
        contents
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Box<[u8; PAGE_LEN]>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn zero(&self, at: ByteOffset, len: u32) {
        let mut pages = self.lock();
        for part in parts(at, usize::try_from(len).expect("32 bits")) {
            if part.to - part.from == PAGE_LEN {
                pages.remove(&part.page);
            } else if let Some(page) = pages.get_mut(&part.page) {
                page[part.from..part.to].fill(0);
            }
        }
    }
}

/// The pages that a request touches.
fn parts(at: ByteOffset, len: usize) -> impl Iterator<Item = Part> {
    let page_len = u64::try_from(PAGE_LEN).expect("small");
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = at.0 + u64::try_from(done).expect("usize has at most 64 bits");
        let from = usize::try_from(position % page_len).expect("below a page");
        let to = PAGE_LEN.min(from + len - done);
        let part = Part {
            page: position / page_len,
            from,
            to,
            done,
        };
        done += to - from;
        Some(part)
    })
}

impl Export for MemoryExport {
    fn describe(&self) -> ExportInfo {
        self.info.clone()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::Inval)?;
        let mut data = BytesMut::zeroed(len);
        let pages = self.lock();
        for Part {
            page,
            from,
            to,
            done,
        } in parts(at, len)
        {
            if let Some(bytes) = pages.get(&page) {
                data[done..done + to - from].copy_from_slice(&bytes[from..to]);
            }
        }
        Ok(data.freeze())
    }

    async fn write(&self, at: ByteOffset, data: Bytes, _fua: bool) -> Result<(), Errno> {
        let mut pages = self.lock();
        for Part {
            page,
            from,
            to,
            done,
        } in parts(at, data.len())
        {
            let bytes = pages.entry(page).or_insert_with(|| Box::new([0; PAGE_LEN]));
            bytes[from..to].copy_from_slice(&data[done..done + to - from]);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    async fn trim(&self, at: ByteOffset, len: u32, _fua: bool) -> Result<(), Errno> {
        self.zero(at, len);
        Ok(())
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        self.zero(at, len);
        if flags.no_hole {
            let len = usize::try_from(len).map_err(|_| Errno::Inval)?;
            let mut pages = self.lock();
            for part in parts(at, len) {
                pages
                    .entry(part.page)
                    .or_insert_with(|| Box::new([0; PAGE_LEN]));
            }
        }
        Ok(())
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        let pages = self.lock();
        let len = usize::try_from(len).map_err(|_| Errno::Inval)?;
        Ok(parts(at, len)
            .take(STATUS_PAGES_MAX)
            .map(|part| {
                let hole = !pages.contains_key(&part.page);
                Allocation {
                    len: u32::try_from(part.to - part.from).expect("within a page"),
                    hole,
                    zero: hole,
                }
            })
            .collect())
    }
}
