//! The flags that name a vault, and the vault behind them, opened to read.

use std::path::PathBuf;

use everpoint_vault::{OpenOptions, Vault, VaultConfig, VaultUrl};

use crate::config;
use crate::failure::Failure;

/// Which vault.
#[derive(Debug, clap::Args)]
pub(crate) struct VaultArg {
    /// The vault: file:///dir, az://container/prefix or s3://bucket/prefix.
    #[arg(long = "vault", value_name = "URL")]
    url: VaultUrl,
    /// How an az:// or s3:// vault is reached: a TOML file with what a server has under [process.store].
    /// Default: the AZURE_STORAGE_* or AWS_* variables.
    #[arg(long = "store-config", value_name = "FILE")]
    store: Option<PathBuf>,
}

impl VaultArg {
    /// Opens it to read; nothing in it is changed.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened.
    pub(crate) async fn open(&self) -> Result<Vault, Failure> {
        let config = self.config()?;
        Ok(Vault::open(&self.url, &config, OpenOptions::READ).await?)
    }

    /// How stores are reached: the vault's own, and that of blobs.
    ///
    /// # Errors
    ///
    /// Bad input, named by file and key.
    pub(crate) fn config(&self) -> Result<VaultConfig, Failure> {
        match &self.store {
            Some(path) => config::store(path),
            None => Ok(VaultConfig::default()),
        }
    }
}
