//! Page blobs that flags name, reached by the settings of vaults' stores.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use everpoint_replica::{AzureAccount, AzurePages, BlobAddress, PagesConfig};
use everpoint_vault::{AccessError, VaultConfig};

use crate::failure::{Code, Failure};

/// Longer than the URL of any disk. Unit: bytes.
const URL_LEN_MAX: u64 = 16 << 10;

/// The blob of an address, whether it exists or not.
///
/// # Errors
///
/// What is missing of the account, or cannot be.
pub(crate) fn pages(store: &VaultConfig, address: &BlobAddress) -> Result<AzurePages, Failure> {
    let found = store.azure.credentials(address.container());
    let found = found.map_err(|error| of_access(&error))?;
    let config = PagesConfig {
        ca_pem: found.ca_pem,
        ..PagesConfig::default()
    };
    let account = AzureAccount::new(found.account, found.endpoint, found.credentials, config);
    let account = account.map_err(|error| Failure::of(Code::Usage, &error))?;
    Ok(account.pages_at(address))
}

/// The managed disk whose URL lies in a file of its owner's alone.
///
/// # Errors
///
/// Bad input.
pub(crate) fn of_sas_file(store: &VaultConfig, path: &Path) -> Result<AzurePages, Failure> {
    let what = format!("--to-sas {}", path.display());
    let read = || -> io::Result<(u32, String)> {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut text = String::new();
        file.take(URL_LEN_MAX).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let (mode, text) =
        read().map_err(|error| Failure::of(Code::Usage, &error).while_doing(&what))?;
    if mode & 0o077 != 0 {
        let failure = Failure::usage(format!("{what}: its mode is {mode:o}: others can read it"));
        return Err(failure.help("chmod 600 it; `az disk revoke-access` ends the URL in it"));
    }
    let config = PagesConfig {
        ca_pem: store.azure.ca_pem().map_err(|error| of_access(&error))?,
        ..PagesConfig::default()
    };
    AzurePages::of_sas_url(&text, config)
        .map_err(|error| Failure::of(Code::Usage, &error).while_doing(&what))
}

fn of_access(error: &AccessError) -> Failure {
    Failure::of(Code::Usage, error)
}
