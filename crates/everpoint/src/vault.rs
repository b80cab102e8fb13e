//! The flag that names a vault, and the vault behind it, opened to read.

use everpoint_vault::{OpenOptions, Vault, VaultConfig, VaultUrl};

use crate::failure::Failure;

/// Which vault.
#[derive(Debug, clap::Args)]
pub(crate) struct VaultArg {
    /// The vault: file:///dir.
    #[arg(long = "vault", value_name = "URL")]
    url: VaultUrl,
}

impl VaultArg {
    /// Opens it to read; nothing in it is changed.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened.
    pub(crate) async fn open(&self) -> Result<Vault, Failure> {
        Ok(Vault::open(&self.url, &VaultConfig::default(), OpenOptions::READ).await?)
    }
}
