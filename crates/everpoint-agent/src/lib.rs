//! The role on the protected machine: splitter, queue, change blocks, initial sync and resync.
