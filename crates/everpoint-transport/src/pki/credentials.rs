//! What a side of a link shows and trusts, read from files and checked before the first handshake.
//!
//! A mistake in these files would otherwise show as a TLS alert on the other machine. So everything
//! that can be known here is checked here: readable by the owner alone, the key belongs to the
//! certificate, the certificate is of the CA, names one identity, and is good now.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everpoint_units::WallTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};

use super::{Ca, KeyPem, ReadError, files};
use crate::identity::{CertificateFacts, Identity, IdentityError, Validity};
use crate::tls;

/// How long before its end a certificate is warned of.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);

/// The three files that a side of a link needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialPaths {
    /// Its own certificate. PEM.
    pub certificate: PathBuf,
    /// Its own key. PEM, mode 0600.
    pub key: PathBuf,
    /// The vault's CA. PEM.
    pub ca: PathBuf,
}

/// A certificate, its key, and the one CA that is trusted.
pub struct Credentials {
    pub(crate) identity: Identity,
    pub(crate) validity: Validity,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) ca: CertificateDer<'static>,
}

/// A certificate that ends soon, or has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Expiring {
    /// Its last moment.
    pub expires_at: WallTime,
    /// What is left of it; zero if it has ended.
    pub left: Duration,
}

/// Why files cannot be used; each names the file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read, or others can read it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was read, and what it holds is no good.
    #[error("{} cannot be used", path.display())]
    Fault {
        path: PathBuf,
        #[source]
        source: CredentialFault,
    },
}

/// What is wrong with a certificate, a key or a CA.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFault {
    /// No certificate in it.
    #[error("it holds no PEM certificate")]
    NoCertificate,
    /// No private key in it.
    #[error("it holds no PEM private key")]
    NoKey,
    /// A key of a kind that TLS has no use for.
    #[error("the private key is not usable")]
    BadKey,
    /// The key is another certificate's.
    #[error("the private key is not the one of the certificate; issue both anew")]
    KeyMismatch,
    /// It names nobody, or not for one side.
    #[error("it is not a certificate of an agent or a server")]
    Identity(#[source] IdentityError),
    /// Its time is over.
    #[error("it expired at {expired_at} (now: {now}); issue a new one")]
    Expired { expired_at: WallTime, now: WallTime },
    /// Its time has not come: more often the clock is wrong than the certificate.
    #[error("it is not valid before {valid_from} (now: {now}); check this machine's clock")]
    NotYetValid { valid_from: WallTime, now: WallTime },
    /// It is not a CA's certificate.
    #[error("it is not the certificate of a CA")]
    NotACa,
    /// Another CA signed it.
    #[error("it was not issued by the given CA")]
    OtherCa(#[source] TlsError),
    /// The CA's time is over or has not come.
    #[error("the given CA cannot be used")]
    Ca(#[source] Box<Self>),
}

impl LoadError {
    /// Puts a fault down to the file that it is in.
    pub(super) fn fault(source: CredentialFault, certificate: &Path, key: &Path) -> Self {
        let path = match source {
            CredentialFault::NoKey | CredentialFault::BadKey | CredentialFault::KeyMismatch => key,
            _ => certificate,
        };
        Self::Fault {
            path: path.to_owned(),
            source,
        }
    }
}

impl Credentials {
    /// Reads and checks the three files.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the file, what is wrong and what to do.
    pub fn load(paths: &CredentialPaths, now: WallTime) -> Result<Self, LoadError> {
        let certificate = files::read(&paths.certificate)?;
        let key = files::read_key(&paths.key)?;
        let ca = files::read(&paths.ca)?;
        Self::from_pem(&certificate, &key, &ca, now).map_err(|fault| match fault {
            CredentialFault::Ca(source) => LoadError::Fault {
                path: paths.ca.clone(),
                source: *source,
            },
            fault => LoadError::fault(fault, &paths.certificate, &paths.key),
        })
    }

    /// Checks the three texts.
    ///
    /// # Errors
    ///
    /// [`CredentialFault`].
    pub fn from_pem(
        certificate_pem: &str,
        key_pem: &KeyPem,
        ca_pem: &str,
        now: WallTime,
    ) -> Result<Self, CredentialFault> {
        let in_ca = |fault| CredentialFault::Ca(Box::new(fault));
        let ca = certificates(ca_pem).map_err(in_ca)?.remove(0);
        let ca_validity = Validity::of_ca(&ca).ok_or_else(|| in_ca(CredentialFault::NotACa))?;
        check_time(ca_validity, now).map_err(in_ca)?;

        let (chain, key) = pair(certificate_pem, key_pem)?;
        let facts = CertificateFacts::of(&chain[0]).map_err(CredentialFault::Identity)?;
        check_time(facts.validity, now)?;
        tls::check_chain(&chain, &ca, facts.identity, now).map_err(CredentialFault::OtherCa)?;
        Ok(Self {
            identity: facts.identity,
            validity: facts.validity,
            chain,
            key,
            ca,
        })
    }

    /// Whom they name.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The certificate's last moment.
    pub fn expires_at(&self) -> WallTime {
        self.validity.not_after
    }

    /// The fact to log and to measure when the certificate ends within `ahead`.
    pub fn warn_if_expiring(&self, now: WallTime, ahead: Duration) -> Option<Expiring> {
        warn_if_expiring(self.expires_at(), now, ahead)
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            identity: self.identity,
            validity: self.validity,
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            ca: self.ca.clone(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// `Some` when what ends at `expires_at` ends within `ahead` of `now`, or has ended.
pub fn warn_if_expiring(expires_at: WallTime, now: WallTime, ahead: Duration) -> Option<Expiring> {
    let left = Duration::from_micros(expires_at.0.saturating_sub(now.0));
    (left <= ahead).then_some(Expiring { expires_at, left })
}

/// Checks the two parts of a CA that is to issue.
pub(super) fn check_ca(
    certificate_pem: &str,
    key_pem: &KeyPem,
    now: WallTime,
) -> Result<Ca, CredentialFault> {
    let (chain, _key) = pair(certificate_pem, key_pem)?;
    let validity = Validity::of_ca(&chain[0]).ok_or(CredentialFault::NotACa)?;
    check_time(validity, now)?;
    Ca::from_checked(certificate_pem.to_owned(), key_pem.clone(), validity)
        .map_err(|_| CredentialFault::BadKey)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialFault> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(CredentialFault::NoCertificate),
    }
}

/// A chain, never empty, and the key of its first certificate.
fn pair(
    certificate_pem: &str,
    key_pem: &KeyPem,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CredentialFault> {
    let chain = certificates(certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
        .map_err(|_| CredentialFault::NoKey)?;
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &tls::provider()).map_err(|error| {
        match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CredentialFault::KeyMismatch
            }
            TlsError::InvalidCertificate(_) => CredentialFault::Identity(IdentityError::Malformed),
            _ => CredentialFault::BadKey,
        }
    })?;
    Ok((chain, key))
}

fn check_time(validity: Validity, now: WallTime) -> Result<(), CredentialFault> {
    if now < validity.not_before {
        return Err(CredentialFault::NotYetValid {
            valid_from: validity.not_before,
            now,
        });
    }
    // X.509 names the last second, whole.
    if now.0 / 1_000_000 > validity.not_after.0 / 1_000_000 {
        return Err(CredentialFault::Expired {
            expired_at: validity.not_after,
            now,
        });
    }
    Ok(())
}
