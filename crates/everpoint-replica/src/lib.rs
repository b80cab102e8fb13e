//! The replica: a protected disk written in place at its target, so that it can be attached at once.
//!
//! One contract, [`PageTarget`], and three forms of it that all keep it ([`contract`]):
//!
//! | form | what it is |
//! |---|---|
//! | [`AzurePages`] | a page blob in Azure, which becomes a managed disk |
//! | [`VhdFile`] | a fixed VHD on a local filesystem |
//! | [`MemoryPages`] | for tests; [`FaultyPages`] puts faults in front of any of them |
//!
//! [`Counted`] in front of any of them counts what it is asked for, by day and by how it is billed.
//!
//! A target is fenced: every write carries a [`Fence`] and takes effect only while that is the target's own. What a
//! target is *for*, which changes go into it and when, is not known here; nor does any form of it repeat a request:
//! whether the same bytes may be sent again, or the fence has to be raised first, only the caller can know. One such
//! caller is [`Upload`]: it writes a whole image, once.

mod address;
mod azure;
pub mod contract;
mod counted;
mod error;
mod faulty;
mod fence;
mod file;
mod memory;
mod target;
mod traffic;
mod upload;

pub use address::{BlobAddress, ParseBlobAddressError};
pub use azure::{AzureAccount, AzurePages, PagesConfig, SasUrlError};
pub use counted::{Counted, SharedTraffic};
pub use error::{Cause, PageError, Refusal, Remedy};
pub use faulty::{FaultyPages, PageFault};
pub use fence::{COUNTER_MAX, Fence, LEVEL_MAX};
pub use file::VhdFile;
pub use memory::MemoryPages;
pub use target::{
    CLEAR_LEN_MAX, CopyState, LEASE_S_MAX, LeaseId, PUT_LEN_MAX, PageRange, PageTarget, Pages,
    Properties, SnapshotId, TARGET_LEN_MAX, expect_pages,
};
pub use traffic::{
    DAYS_MAX, DayTraffic, Micros, Price, PriceError, Prices, RequestKind, Traffic, UtcDay,
};
pub use upload::{Ground, UPLOAD_MEMORY_MIN, Upload, UploadConfig, UploadError, Uploaded};
