//! TLS as everpoint uses it: version 1.3 alone, both sides with a certificate, one CA, no short cuts.
//!
//! - AES-128-GCM first: with AES instructions it is the fastest, and QUIC needs it in any case.
//! - No resumption and no 0-RTT: early data can be replayed, and each session is to show its
//!   certificate again.
//! - No public roots. A certificate that any other CA signed is refused.
//! - Beyond the chain, each side looks at *who* the other is ([`Identity`]), inside the handshake:
//!   an agent's certificate serves no server and the other way round.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use everpoint_units::{ServerId, WallTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    SignatureScheme,
};

use crate::identity::{CertificateFacts, Identity};
use crate::pki::Credentials;

/// The protocol's name in the handshake; a side that speaks another version does not get further.
pub(crate) const ALPN: &[u8] = b"everpoint/1";

/// Which server an agent means to reach; the certificate has to say the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExpectedServer {
    /// The one with this DNS name or IP address in its certificate.
    Name(ServerName<'static>),
    /// The one with this id, whatever it is called.
    Id(ServerId),
}

/// Not a DNS name and not an IP address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{name:?} is neither a DNS name nor an IP address")]
pub struct ServerNameError {
    /// What was given.
    pub name: String,
}

/// Takes an agent's certificate when the CA signed it and it names an agent.
#[derive(Debug)]
struct AgentVerifier {
    chain: Arc<dyn ClientCertVerifier>,
}

/// Takes the certificate of the one server that is expected. Made for one handshake.
#[derive(Debug)]
struct ServerVerifier {
    roots: RootCertStore,
    expected: ExpectedServer,
    provider: Arc<CryptoProvider>,
    verdict: Verdict,
}

/// Why the server's certificate was refused, for the caller: QUIC itself keeps only a number.
pub(crate) type Verdict = Arc<OnceLock<TlsError>>;

impl ExpectedServer {
    /// A DNS name or an IP address.
    ///
    /// # Errors
    ///
    /// [`ServerNameError`] if it is neither.
    pub fn named(name: &str) -> Result<Self, ServerNameError> {
        ServerName::try_from(name.to_owned())
            .map(Self::Name)
            .map_err(|_| ServerNameError {
                name: name.to_owned(),
            })
    }

    /// The name that goes into the handshake.
    pub(crate) fn handshake_name(&self) -> String {
        match self {
            Self::Name(name) => name.to_str().into_owned(),
            // QUIC wants a name; this one resolves nowhere (RFC 2606) and is never compared.
            Self::Id(server) => format!("{server}.invalid"),
        }
    }
}

/// The algorithms, best first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// TLS for the side that is called.
pub(crate) fn server_config(
    credentials: &Credentials,
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ServerConfig, TlsError> {
    let verifier = AgentVerifier::new(&credentials.ca, &provider)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = true;
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// TLS for the side that calls, for one handshake with one server.
pub(crate) fn client_config(
    credentials: &Credentials,
    expected: ExpectedServer,
    provider: Arc<CryptoProvider>,
) -> Result<(rustls::ClientConfig, Verdict), TlsError> {
    let verdict = Verdict::default();
    let verifier = ServerVerifier {
        roots: roots(&credentials.ca)?,
        expected,
        provider: Arc::clone(&provider),
        verdict: Arc::clone(&verdict),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // Its word for "own verifier"; this one checks more than the default.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    Ok((config, verdict))
}

/// Checks that `ca` signed the first certificate of `chain` for the side that `identity` is.
pub(crate) fn check_chain(
    chain: &[CertificateDer<'_>],
    ca: &CertificateDer<'static>,
    identity: Identity,
    now: WallTime,
) -> Result<(), TlsError> {
    let (leaf, intermediates) = chain
        .split_first()
        .ok_or(TlsError::NoCertificatesPresented)?;
    let now = UnixTime::since_unix_epoch(Duration::from_micros(now.0));
    let provider = provider();
    match identity {
        Identity::Agent(_) => AgentVerifier::new(ca, &provider)?
            .chain
            .verify_client_cert(leaf, intermediates, now)
            .map(drop),
        Identity::Server(_) => verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &roots(ca)?,
            intermediates,
            now,
            provider.signature_verification_algorithms.all,
        ),
    }
}

impl AgentVerifier {
    fn new(ca: &CertificateDer<'static>, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let roots = Arc::new(roots(ca)?);
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map(|chain| Self { chain })
            .map_err(|error| TlsError::General(error.to_string()))
    }
}

impl ClientCertVerifier for AgentVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        match CertificateFacts::of(end_entity) {
            Ok(CertificateFacts {
                identity: Identity::Agent(_),
                ..
            }) => Ok(verified),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerVerifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let refused = || TlsError::from(CertificateError::ApplicationVerificationFailure);
        let facts = CertificateFacts::of(end_entity).map_err(|_| refused())?;
        match (facts.identity, &self.expected) {
            (Identity::Server(_), ExpectedServer::Name(name)) => {
                verify_server_name(&certificate, name)
            }
            (Identity::Server(server), ExpectedServer::Id(id)) if server == *id => Ok(()),
            (Identity::Server(_), ExpectedServer::Id(_)) => {
                Err(CertificateError::NotValidForName.into())
            }
            (Identity::Agent(_), _) => Err(refused()),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
            .inspect_err(|error| {
                // One handshake, one verdict: a second one would say the same.
                let _ = self.verdict.set(error.clone());
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn roots(ca: &CertificateDer<'static>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(roots)
}
