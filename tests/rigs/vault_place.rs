//! Where a vault is, and how its store is reached: what a server's configuration and a command line say of it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use everpoint_vault::{OpenOptions, Vault, VaultConfig};

/// See the module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VaultPlace {
    pub url: String,
    /// TOML of the store's settings, for a cloud.
    pub store: Option<String>,
}

impl VaultPlace {
    /// What a configuration has of it in the section of a process server.
    pub fn settings(&self) -> String {
        let store = self.store.as_deref().unwrap_or_default();
        // Texts of TOML are written as those of Rust, for all that URLs of tests hold.
        format!("vault = {:?}\n{store}", self.url)
    }

    /// The store's settings as a file of their own has them, for the command line.
    pub fn store_config(&self) -> Option<String> {
        let store = self.store.as_ref()?;
        Some(store.replace("[process.store.", "["))
    }

    /// Opens the vault to read it.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub async fn open(&self) -> Result<Vault> {
        let config: VaultConfig = match self.store_config() {
            Some(text) => toml::from_str(&text)?,
            None => VaultConfig::default(),
        };
        Ok(Vault::open(&self.url.parse()?, &config, OpenOptions::READ).await?)
    }
}

impl From<&Path> for VaultPlace {
    fn from(directory: &Path) -> Self {
        Self {
            url: format!("file://{}", directory.display()),
            store: None,
        }
    }
}

impl From<&PathBuf> for VaultPlace {
    fn from(directory: &PathBuf) -> Self {
        directory.as_path().into()
    }
}

impl From<PathBuf> for VaultPlace {
    fn from(directory: PathBuf) -> Self {
        directory.as_path().into()
    }
}

impl From<&Self> for VaultPlace {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}
