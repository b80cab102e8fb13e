//! Making a CA, and certificates with it.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use everpoint_units::{MachineId, ServerId, WallTime};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use zeroize::Zeroizing;

use super::files::{self, Overwrite, WriteError};
use super::{LoadError, credentials};
use crate::identity::{Identity, Validity};

/// How long a certificate of an agent or a server is good.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// How long a CA is good.
pub const CA_LIFETIME: Duration = Duration::from_secs(3_652 * 86_400);

/// How far back a new certificate begins, for peers whose clocks run late.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// A CA that can issue: its certificate and its key.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    key_pem: KeyPem,
    validity: Validity,
}

/// A certificate and its key, as text for files.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate. PEM.
    pub certificate_pem: String,
    /// Its key. PEM, PKCS #8.
    pub key_pem: KeyPem,
    /// Until when the certificate is good.
    pub expires_at: WallTime,
}

/// A private key. It does not show itself in logs, and its memory is overwritten when it goes.
#[derive(Clone)]
pub struct KeyPem(Zeroizing<String>);

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A server needs a name or address that agents reach it by.
    #[error("a server certificate needs at least one name or address")]
    NoName,
    /// Not a DNS name and not an IP address.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    Name { name: String },
    /// The CA is not good for all of that time, nor for any part of it.
    #[error("the CA is good from {} to {} only", ca.not_before, ca.not_after)]
    OutsideCa { ca: Validity },
    /// The library refused; a fault of the key or the random source.
    #[error("the certificate could not be made")]
    Crypto(#[source] rcgen::Error),
}

impl Validity {
    /// From an hour before `now`, for late clocks, until `lifetime` after it.
    pub fn from_now(now: WallTime, lifetime: Duration) -> Self {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        Self {
            not_before: now.shifted(-micros(CLOCK_SKEW)),
            not_after: now.shifted(micros(lifetime)),
        }
    }
}

impl Ca {
    /// Makes a CA with a key of its own, self-signed.
    ///
    /// # Errors
    ///
    /// [`IssueError::Crypto`].
    pub fn create(validity: Validity) -> Result<Self, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Crypto)?;
        let mut params = params(validity);
        // Part of the key's digest in the name, so that two CAs are told apart in an error.
        let digest = params.key_identifier(&key);
        let digest: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, format!("everpoint CA {digest}"));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(IssueError::Crypto)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: KeyPem::of(&key),
            issuer: Issuer::new(params, key),
            validity,
        })
    }

    /// Reads a CA back from its two files.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the file and what is wrong with it: readable by others, not PEM, not a
    /// CA, past its time, or a key that is not the certificate's.
    pub fn load(certificate: &Path, key: &Path, now: WallTime) -> Result<Self, LoadError> {
        let certificate_pem = files::read(certificate)?;
        let key_pem = files::read_key(key)?;
        let ca = credentials::check_ca(&certificate_pem, &key_pem, now)
            .map_err(|fault| LoadError::fault(fault, certificate, key))?;
        Ok(ca)
    }

    /// From parts that were checked to belong together.
    pub(super) fn from_checked(
        certificate_pem: String,
        key_pem: KeyPem,
        validity: Validity,
    ) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(key_pem.expose())?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            certificate_pem,
            key_pem,
            validity,
        })
    }

    /// The CA's certificate: what everybody has to know. PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Until when the CA is good.
    pub fn expires_at(&self) -> WallTime {
        self.validity.not_after
    }

    /// Writes the CA's certificate and key, the key with mode 0600.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; with [`Overwrite::Refuse`] nothing that exists is touched.
    pub fn write(
        &self,
        certificate: &Path,
        key: &Path,
        overwrite: Overwrite,
    ) -> Result<(), WriteError> {
        files::write_pair(
            (certificate, &self.certificate_pem),
            (key, &self.key_pem),
            overwrite,
        )
    }

    /// Issues the certificate of a machine's agent. It ends no later than the CA.
    ///
    /// # Errors
    ///
    /// [`IssueError::OutsideCa`], [`IssueError::Crypto`].
    pub fn issue_agent(
        &self,
        machine: MachineId,
        validity: Validity,
    ) -> Result<Issued, IssueError> {
        self.issue(Identity::Agent(machine), Vec::new(), validity)
    }

    /// Issues the certificate of a process server that is reached by `names`: DNS names or IP
    /// addresses, at least one. It ends no later than the CA.
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    pub fn issue_server(
        &self,
        server: ServerId,
        names: &[impl AsRef<str>],
        validity: Validity,
    ) -> Result<Issued, IssueError> {
        if names.is_empty() {
            return Err(IssueError::NoName);
        }
        let names = names.iter().map(|name| alternative_name(name.as_ref()));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        self.issue(Identity::Server(server), names, validity)
    }

    fn issue(
        &self,
        identity: Identity,
        mut names: Vec<SanType>,
        mut validity: Validity,
    ) -> Result<Issued, IssueError> {
        validity.not_after = validity.not_after.min(self.validity.not_after);
        if validity.not_after < validity.not_before {
            return Err(IssueError::OutsideCa { ca: self.validity });
        }
        let uri = Ia5String::try_from(identity.to_string()).map_err(IssueError::Crypto)?;
        names.push(SanType::URI(uri));
        let mut params = params(validity);
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, identity.to_string());
        params.distinguished_name = name;
        params.subject_alt_names = names;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match identity {
            Identity::Agent(_) => ExtendedKeyUsagePurpose::ClientAuth,
            Identity::Server(_) => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        self.sign(&params, validity.not_after)
    }

    fn sign(&self, params: &CertificateParams, expires_at: WallTime) -> Result<Issued, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Crypto)?;
        let certificate = params.signed_by(&key, &self.issuer);
        Ok(Issued {
            certificate_pem: certificate.map_err(IssueError::Crypto)?.pem(),
            key_pem: KeyPem::of(&key),
            expires_at,
        })
    }

    /// A certificate that [`Ca::issue_agent`] would not make: with these names and usages.
    #[cfg(test)]
    pub(crate) fn issue_odd(
        &self,
        uris: &[&str],
        usages: &[ExtendedKeyUsagePurpose],
        validity: Validity,
    ) -> Issued {
        let mut params = params(validity);
        let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).expect("ASCII"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages = usages.to_vec();
        self.sign(&params, validity.not_after).expect("signed")
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Issued {
    /// Writes both, the key with mode 0600.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; with [`Overwrite::Refuse`] nothing that exists is touched.
    pub fn write(
        &self,
        certificate: &Path,
        key: &Path,
        overwrite: Overwrite,
    ) -> Result<(), WriteError> {
        files::write_pair(
            (certificate, &self.certificate_pem),
            (key, &self.key_pem),
            overwrite,
        )
    }
}

impl KeyPem {
    /// Takes text that holds a key.
    pub fn new(pem: String) -> Self {
        Self(Zeroizing::new(pem))
    }

    fn of(key: &KeyPair) -> Self {
        Self::new(key.serialize_pem())
    }

    /// The key itself. Not for logs, arguments or configuration.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(..)")
    }
}

fn params(validity: Validity) -> CertificateParams {
    // rcgen counts in whole seconds from a date of its own type; 1970 is the way there.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |time: WallTime| Duration::from_secs((time.0 / 1_000_000).min(LAST_SECOND));
    let mut params = CertificateParams::default();
    params.not_before = epoch + seconds(validity.not_before);
    params.not_after = epoch + seconds(validity.not_after);
    params
}

/// 9999-12-31T23:59:59Z, the last second that X.509 can write (RFC 5280, section 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

fn alternative_name(name: &str) -> Result<SanType, IssueError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || IssueError::Name {
        name: name.to_owned(),
    };
    // The same rules that the verifier applies, so that no name is issued that can never match.
    DnsName::try_from(name).map_err(|_| bad())?;
    Ia5String::try_from(name)
        .map(SanType::DnsName)
        .map_err(|_| bad())
}
