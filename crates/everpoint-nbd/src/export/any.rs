//! An export of any kind behind one type, for those who keep different kinds in one collection.
//!
//! It costs one allocation a request. [`crate::Server::attach`] does not need it: the server erases
//! the kind once for each connection, not for each request.

use std::sync::Arc;

use bytes::Bytes;
use everpoint_units::ByteOffset;
use futures::future::BoxFuture;

use super::{Allocation, Export, ExportInfo, ZeroFlags};
use crate::Errno;

/// An [`Export`] whose kind is known only while it runs.
#[derive(Clone)]
pub struct AnyExport(Arc<dyn Erased>);

trait Erased: Send + Sync {
    fn describe(&self) -> ExportInfo;
    fn read(&self, at: ByteOffset, len: u32) -> BoxFuture<'_, Result<Bytes, Errno>>;
    fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), Errno>>;
    fn flush(&self) -> BoxFuture<'_, Result<(), Errno>>;
    fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> BoxFuture<'_, Result<(), Errno>>;
    fn write_zeroes(
        &self,
        at: ByteOffset,
        len: u32,
        flags: ZeroFlags,
    ) -> BoxFuture<'_, Result<(), Errno>>;
    fn block_status(
        &self,
        at: ByteOffset,
        len: u32,
    ) -> BoxFuture<'_, Result<Vec<Allocation>, Errno>>;
}

impl AnyExport {
    /// Forgets which kind it is.
    pub fn new<E: Export>(export: Arc<E>) -> Self {
        Self(export)
    }
}

impl<E: Export> Erased for E {
    fn describe(&self) -> ExportInfo {
        Export::describe(self)
    }

    fn read(&self, at: ByteOffset, len: u32) -> BoxFuture<'_, Result<Bytes, Errno>> {
        Box::pin(Export::read(self, at, len))
    }

    fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(Export::write(self, at, data, fua))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(Export::flush(self))
    }

    fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(Export::trim(self, at, len, fua))
    }

    fn write_zeroes(
        &self,
        at: ByteOffset,
        len: u32,
        flags: ZeroFlags,
    ) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(Export::write_zeroes(self, at, len, flags))
    }

    fn block_status(
        &self,
        at: ByteOffset,
        len: u32,
    ) -> BoxFuture<'_, Result<Vec<Allocation>, Errno>> {
        Box::pin(Export::block_status(self, at, len))
    }
}

impl Export for AnyExport {
    fn describe(&self) -> ExportInfo {
        self.0.describe()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        self.0.read(at, len).await
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        self.0.write(at, data, fua).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.0.trim(at, len, fua).await
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        self.0.write_zeroes(at, len, flags).await
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        self.0.block_status(at, len).await
    }
}
