//! Who is at the other end: a name inside its certificate, signed by the vault's CA.
//!
//! | side | URI in the subject alternative name | extended key usage |
//! |---|---|---|
//! | agent | `urn:everpoint:agent:<machine id>` | client authentication, nothing else |
//! | process server | `urn:everpoint:server:<server id>` | server authentication, nothing else |
//!
//! A certificate names exactly one identity, and its usage must be the one of that side: a server
//! that was broken into cannot pose as an agent with the certificate it has, nor the other way.

use std::fmt;
use std::str::FromStr;

use everpoint_units::{MachineId, ServerId, WallTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const AGENT_PREFIX: &str = "urn:everpoint:agent:";
const SERVER_PREFIX: &str = "urn:everpoint:server:";

/// A side of a link, by its certificate.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Identity {
    /// The agent of a machine: it may append to that machine's disks, nothing else.
    Agent(MachineId),
    /// A process server.
    Server(ServerId),
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("the certificate does not parse")]
    Malformed,
    /// It has no everpoint name; a certificate from elsewhere.
    #[error("the certificate names no agent or server (it lacks a urn:everpoint: name)")]
    Nobody,
    /// It has more than one, so that it would be a matter of taste which one counts.
    #[error("the certificate names more than one agent or server")]
    Several,
    /// Its extended key usage is not the one of its side.
    #[error("the certificate of {identity} is not made for that side alone")]
    Usage { identity: Identity },
}

/// What everpoint reads from a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CertificateFacts {
    pub(crate) identity: Identity,
    pub(crate) validity: Validity,
}

/// From when and until when a certificate is good, both inclusive. X.509 keeps whole seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// First moment.
    pub not_before: WallTime,
    /// Last moment.
    pub not_after: WallTime,
}

impl fmt::Display for Identity {
    /// The URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(machine) => write!(f, "{AGENT_PREFIX}{machine}"),
            Self::Server(server) => write!(f, "{SERVER_PREFIX}{server}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Reads the URI, in the one spelling that [`Identity`] prints.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let agent = || Some(Self::Agent(text.strip_prefix(AGENT_PREFIX)?.parse().ok()?));
        let server = || {
            Some(Self::Server(
                text.strip_prefix(SERVER_PREFIX)?.parse().ok()?,
            ))
        };
        agent()
            .or_else(server)
            .filter(|identity| identity.to_string() == text)
            .ok_or(IdentityError::Nobody)
    }
}

impl CertificateFacts {
    /// Reads who a certificate is for. Says nothing about who signed it.
    pub(crate) fn of(der: &[u8]) -> Result<Self, IdentityError> {
        let certificate = parse(der)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Malformed)?;
        let names = names
            .iter()
            .flat_map(|extension| extension.value.general_names.iter());
        let mut uris = names.filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("urn:everpoint:") => Some(*uri),
            _ => None,
        });
        let identity: Identity = uris.next().ok_or(IdentityError::Nobody)?.parse()?;
        if uris.next().is_some() {
            return Err(IdentityError::Several);
        }

        let usage = certificate
            .extended_key_usage()
            .map_err(|_| IdentityError::Malformed)?
            .ok_or(IdentityError::Usage { identity })?
            .value;
        let right_side = match identity {
            Identity::Agent(_) => usage.client_auth && !usage.server_auth,
            Identity::Server(_) => usage.server_auth && !usage.client_auth,
        };
        if !right_side || usage.any || certificate.is_ca() {
            return Err(IdentityError::Usage { identity });
        }
        Ok(Self {
            identity,
            validity: validity_of(&certificate),
        })
    }
}

impl Validity {
    /// Reads from when until when a CA is good; `None` for what is not the certificate of a CA.
    pub(crate) fn of_ca(der: &[u8]) -> Option<Self> {
        let certificate = parse(der).ok()?;
        let signs = certificate
            .key_usage()
            .ok()?
            .is_some_and(|usage| usage.value.key_cert_sign());
        (certificate.is_ca() && signs).then(|| validity_of(&certificate))
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(IdentityError::Malformed),
    }
}

fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    // Times before 1970 count as 1970.
    let wall = |seconds: i64| {
        WallTime(
            u64::try_from(seconds)
                .unwrap_or(0)
                .saturating_mul(1_000_000),
        )
    };
    Validity {
        not_before: wall(certificate.validity().not_before.timestamp()),
        not_after: wall(certificate.validity().not_after.timestamp()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_no_other_spelling_does() {
        let agent = Identity::Agent(MachineId([0xab; 16]));
        let server = Identity::Server(ServerId([1; 16]));
        for identity in [agent, server] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        let text = agent.to_string();
        for other in [
            text.to_uppercase(),
            text.replace('-', ""),
            format!("{text} "),
            text.replace("agent", "admin"),
            String::new(),
        ] {
            assert_eq!(
                other.parse::<Identity>(),
                Err(IdentityError::Nobody),
                "{other}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        assert_eq!(CertificateFacts::of(b""), Err(IdentityError::Malformed));
        assert_eq!(
            CertificateFacts::of(&[0x30; 64]),
            Err(IdentityError::Malformed)
        );
    }
}
