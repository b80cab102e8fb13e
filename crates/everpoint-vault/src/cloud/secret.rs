//! Secrets in files: read when they are needed, and again when somebody has replaced them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::azure::{AzureAccessKey, AzureCredential};
use object_store::client::CredentialProvider;

use super::AccessError;

/// How old what was read may be: as long does a new secret take to count.
const AGE_MAX: Duration = Duration::from_secs(30);
/// Longer than any of them. Unit: bytes.
const SECRET_LEN_MAX: u64 = 64 << 10;

/// The secret in a file, without what surrounds it. A file that others than its owner can read is refused.
pub(super) fn read_secret(key: &'static str, path: &Path) -> Result<String, AccessError> {
    let read = || -> std::io::Result<(u32, String)> {
        let file = File::open(path)?;
        // Asked of the open file: the name may mean another one by now.
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut text = String::new();
        file.take(SECRET_LEN_MAX).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let path = path.to_owned();
    match read() {
        Ok((mode, _)) if mode & 0o077 != 0 => {
            Err(AccessError::ReadableByOthers { key, path, mode })
        }
        Ok((_, text)) => Ok(text.trim().to_owned()),
        Err(source) => Err(AccessError::Unread { key, path, source }),
    }
}

/// How a file's text becomes a credential.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    AccessKey,
    Sas,
}

/// A credential that lies in a file. A SAS ends, and whoever renews it replaces the file: no restart.
pub(super) struct FileCredential {
    key: &'static str,
    path: PathBuf,
    kind: Kind,
    last: Mutex<(Instant, Arc<AzureCredential>)>,
}

impl fmt::Debug for FileCredential {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCredential")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl FileCredential {
    /// Reads it for the first time.
    pub(super) fn open(key: &'static str, path: &Path, kind: Kind) -> Result<Self, AccessError> {
        let first = kind.credential(key, &read_secret(key, path)?)?;
        Ok(Self {
            key,
            path: path.to_owned(),
            kind,
            last: Mutex::new((Instant::now(), Arc::new(first))),
        })
    }

    /// Has it read again at the next request.
    #[cfg(test)]
    pub(super) fn make_old(&mut self) {
        let last = self.last.get_mut().unwrap_or_else(PoisonError::into_inner);
        last.0 -= AGE_MAX;
    }
}

#[async_trait]
impl CredentialProvider for FileCredential {
    type Credential = AzureCredential;

    /// What cannot be read now may be half replaced: the one before counts on.
    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if AGE_MAX <= last.0.elapsed() {
            let read = read_secret(self.key, &self.path)
                .and_then(|text| self.kind.credential(self.key, &text));
            match read {
                Ok(credential) => last.1 = Arc::new(credential),
                Err(error) => tracing::warn!(%error, "a credential cannot be read again"),
            }
            last.0 = Instant::now();
        }
        Ok(Arc::clone(&last.1))
    }
}

impl Kind {
    pub(super) fn credential(
        self,
        key: &'static str,
        text: &str,
    ) -> Result<AzureCredential, AccessError> {
        match self {
            // A file that is being replaced may be empty, which would be base64 text, too.
            Self::AccessKey if text.is_empty() => Err(AccessError::Setting {
                key,
                rule: "an account's key is base64 text",
            }),
            Self::AccessKey => AzureAccessKey::try_new(text)
                .map(AzureCredential::AccessKey)
                .map_err(|_| AccessError::Setting {
                    key,
                    rule: "an account's key is base64 text",
                }),
            Self::Sas => {
                sas_pairs(text)
                    .map(AzureCredential::SASToken)
                    .ok_or(AccessError::Setting {
                        key,
                        rule: "a SAS is `name=value` pairs joined by `&`, with a `sig`",
                    })
            }
        }
    }
}

/// The pairs of a SAS, decoded, as the client wants them.
fn sas_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs: Vec<(String, String)> =
        form_urlencoded::parse(text.trim_start_matches('?').as_bytes())
            .into_owned()
            .collect();
    let signed = pairs
        .iter()
        .any(|(name, value)| name == "sig" && !value.is_empty());
    signed.then_some(pairs)
}
