//! Who gets in, and who does not, on both sides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rustls::crypto::CryptoProvider;
use rustls::quic::{Algorithm, HeaderProtectionKey, PacketKey};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, Error as TlsError, SupportedCipherSuite,
};

use super::*;
use crate::tls;
use crate::{Identity, Remedy};

fn not_trusted(result: Result<(Link, Link), ConnectError>) -> TlsError {
    match result {
        Err(ConnectError::NotTrusted { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn refused(result: Result<(Link, Link), ConnectError>) -> AlertDescription {
    match result {
        Err(error @ ConnectError::CertificateRefused { alert, .. }) => {
            assert_eq!(error.remedy(), Remedy::Report);
            alert
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_side_learns_who_the_other_is() {
    let ca = ca();
    let (mut listener, address) = listener(server(&ca));
    let connector = connector(agent(&ca));
    let by_address = ExpectedServer::named("127.0.0.1").unwrap();
    for expected in [named(), by_address, ExpectedServer::Id(SERVER)] {
        let links = connect_to(&mut listener, &connector, address, &expected).await;
        let (agent, server) = links.unwrap();
        assert_eq!(agent.peer().identity, Identity::Server(SERVER));
        assert_eq!(server.peer().identity, Identity::Agent(MACHINE));
        let left = server.peer().expires_at.0 - now().0;
        assert!(left > 362 * 86_400 * 1_000_000, "{left}");
    }
}

#[tokio::test]
async fn a_server_of_another_name_or_id_is_refused() {
    let ca = ca();
    let (mut listener, address) = listener(server(&ca));
    let connector = connector(agent(&ca));
    for other in [
        ExpectedServer::named("other.test").unwrap(),
        ExpectedServer::named("127.0.0.2").unwrap(),
        ExpectedServer::Id(ServerId([9; 16])),
    ] {
        let result = connect_to(&mut listener, &connector, address, &other).await;
        let error = not_trusted(result);
        assert!(
            matches!(
                error,
                TlsError::InvalidCertificate(
                    CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. }
                )
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let (ours, theirs) = (ca(), ca());
    let (mut listener, address) = listener(server(&theirs));
    let connector = connector(agent(&ours));
    let result = connect_to(&mut listener, &connector, address, &named()).await;
    let error = not_trusted(result);
    assert_eq!(
        error,
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer)
    );
}

#[tokio::test]
async fn an_agent_of_another_ca_is_refused() {
    let (ours, theirs) = (ca(), ca());
    let (mut listener, address) = listener(server(&ours));
    // It trusts our CA, so that only its own certificate is wrong.
    let stranger = Credentials {
        ca: agent(&ours).ca,
        ..agent(&theirs)
    };
    let connector = connector(stranger);
    let result = connect_to(&mut listener, &connector, address, &named()).await;
    assert_eq!(refused(result), AlertDescription::UnknownCA);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side() {
    let ca = ca();
    let hour = 3_600_000_000;
    let past = Validity {
        not_before: WallTime(now().0 - 2 * hour),
        not_after: WallTime(now().0 - hour),
    };
    let old_server = ca.issue_server(SERVER, &[NAME], past).unwrap();
    let old_agent = ca.issue_agent(MACHINE, past).unwrap();

    let (mut old, address) = listener(credentials(&old_server, &ca));
    let fresh_agent = connector(agent(&ca));
    let error = not_trusted(connect_to(&mut old, &fresh_agent, address, &named()).await);
    assert!(
        matches!(
            error,
            TlsError::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{error:?}"
    );

    let (mut fresh, address) = listener(server(&ca));
    let old_agent = connector(credentials(&old_agent, &ca));
    let result = connect_to(&mut fresh, &old_agent, address, &named()).await;
    assert_eq!(refused(result), AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn an_agents_certificate_serves_no_server_and_the_other_way_round() {
    let ca = ca();
    // The binding refuses what is plainly the wrong side ...
    let wrong = Listener::bind(server_config(agent(&ca)), budget());
    assert!(matches!(wrong.err(), Some(BindError::WrongSide { .. })));
    let wrong = Connector::bind(client_config(server(&ca)), budget());
    assert!(matches!(wrong.err(), Some(BindError::WrongSide { .. })));

    // ... and the other side of a link refuses it too, when somebody gets past that.
    let as_server = Credentials {
        identity: Identity::Server(SERVER),
        ..agent(&ca)
    };
    let (mut posing, address) = listener(as_server);
    let connector_ = connector(agent(&ca));
    let expected = ExpectedServer::Id(SERVER);
    let error = not_trusted(connect_to(&mut posing, &connector_, address, &expected).await);
    assert!(
        matches!(
            error,
            TlsError::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
        ),
        "{error:?}"
    );

    let (mut honest, address) = listener(server(&ca));
    let as_agent = Credentials {
        identity: Identity::Agent(MACHINE),
        ..server(&ca)
    };
    let posing = connector(as_agent);
    let result = connect_to(&mut honest, &posing, address, &named()).await;
    assert_eq!(refused(result), AlertDescription::UnsupportedCertificate);
}

#[tokio::test]
async fn a_good_chain_is_not_enough_it_must_name_one_side_and_be_made_for_it_alone() {
    use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let ca = ca();
    let agent_name = Identity::Agent(MACHINE).to_string();
    let other_name = Identity::Agent(MachineId([9; 16])).to_string();
    let server_name = Identity::Server(SERVER).to_string();
    let odd_agents: [(&[&str], &[_]); 7] = [
        (&[], &[ClientAuth]),
        (&["urn:example:agent"], &[ClientAuth]),
        (&["urn:everpoint:agent:not-an-id"], &[ClientAuth]),
        (&[&agent_name, &other_name], &[ClientAuth]),
        (&[&server_name], &[ClientAuth]),
        (&[&agent_name], &[ClientAuth, ServerAuth]),
        (&[&agent_name], &[]),
    ];
    let (mut listener, address) = listener(server(&ca));
    for (names, usages) in odd_agents {
        let odd = ca.issue_odd(names, usages, a_year());
        let odd = connector(unchecked(&odd, &ca, Identity::Agent(MACHINE)));
        let result = connect_to(&mut listener, &odd, address, &named()).await;
        assert_eq!(refused(result), AlertDescription::AccessDenied, "{names:?}");
    }

    let odd_servers: [(&[&str], &[_]); 3] = [
        (&[&agent_name], &[ServerAuth]),
        (&[&server_name], &[ServerAuth, ClientAuth]),
        (&[&server_name], &[ServerAuth, Any]),
    ];
    let connector = connector(agent(&ca));
    for (names, usages) in odd_servers {
        let odd = ca.issue_odd(names, usages, a_year());
        let odd = unchecked(&odd, &ca, Identity::Server(SERVER));
        let (mut odd, address) = super::listener(odd);
        let expected = ExpectedServer::Id(SERVER);
        let result = connect_to(&mut odd, &connector, address, &expected).await;
        assert_eq!(
            not_trusted(result),
            TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused_and_sends_nothing() {
    let ca = ca();
    let budget = budget();
    let (mut listener, address) = bound(server_config(server(&ca)), budget.clone());
    let roots = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(agent(&ca).ca).unwrap();
        roots
    };
    let mut crypto = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    crypto.alpn_protocols = vec![tls::ALPN.to_vec()];
    let alert = connect_bare(&mut listener, address, crypto).await;
    assert_eq!(alert, 0x100 + u64::from(CERTIFICATE_REQUIRED));
    assert_eq!(budget.high_water(), listener.standing());
}

#[tokio::test]
async fn a_peer_of_another_protocol_version_is_refused() {
    let ca = ca();
    let (mut listener, address) = listener(server(&ca));
    let (mut crypto, _) = tls::client_config(&agent(&ca), named(), tls::provider()).unwrap();
    crypto.alpn_protocols = vec![b"everpoint/0".to_vec()];
    let alert = connect_bare(&mut listener, address, crypto).await;
    assert_eq!(alert, 0x100 + u64::from(NO_APPLICATION_PROTOCOL));
}

// RFC 8446, section 6, and RFC 7301, section 3.2.
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Connects with quinn alone, and gives the code with which the server ends it.
async fn connect_bare(
    listener: &mut Listener,
    address: SocketAddr,
    crypto: rustls::ClientConfig,
) -> u64 {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto).unwrap();
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, address, NAME).unwrap();
    let ended = async {
        let error = match connecting.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        };
        match error {
            quinn::ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
            other => panic!("{other:?}"),
        }
    };
    tokio::select! {
        code = ended => code,
        link = listener.accept() => panic!("{link:?} must not be"),
    }
}

#[tokio::test]
async fn every_session_is_a_full_handshake() {
    let ca = ca();
    let config = tls::server_config(&server(&ca), tls::provider()).unwrap();
    assert_eq!(
        (config.send_tls13_tickets, config.max_early_data_size),
        (0, 0)
    );
    assert!(!config.session_storage.can_cache());
    let (config, _) = tls::client_config(&agent(&ca), named(), tls::provider()).unwrap();
    assert!(!config.enable_early_data);
}

/// A cipher that notes when keys are made for it.
struct Noted {
    inner: &'static dyn Algorithm,
    suite: CipherSuite,
    made: Arc<Mutex<HashMap<u16, usize>>>,
}

impl Algorithm for Noted {
    fn packet_key(
        &self,
        key: rustls::crypto::cipher::AeadKey,
        iv: rustls::crypto::cipher::Iv,
    ) -> Box<dyn PacketKey> {
        let mut made = self.made.lock().unwrap();
        *made.entry(u16::from(self.suite)).or_default() += 1;
        self.inner.packet_key(key, iv)
    }

    fn header_protection_key(
        &self,
        key: rustls::crypto::cipher::AeadKey,
    ) -> Box<dyn HeaderProtectionKey> {
        self.inner.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        self.inner.aead_key_len()
    }
}

/// The real algorithms in their real order, each noting its use.
fn noting(made: &Arc<Mutex<HashMap<u16, usize>>>) -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&tls::provider());
    for suite in &mut provider.cipher_suites {
        let tls13 = suite.tls13().unwrap();
        let noted = Noted {
            inner: tls13.quic.unwrap(),
            suite: tls13.common.suite,
            made: Arc::clone(made),
        };
        *suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(rustls::Tls13CipherSuite {
            common: rustls::crypto::CipherSuiteCommon {
                suite: tls13.common.suite,
                hash_provider: tls13.common.hash_provider,
                confidentiality_limit: tls13.common.confidentiality_limit,
            },
            hkdf_provider: tls13.hkdf_provider,
            aead_alg: tls13.aead_alg,
            quic: Some(Box::leak(Box::new(noted))),
        })));
    }
    Arc::new(provider)
}

#[tokio::test]
async fn what_is_negotiated_is_aes_128() {
    let ca = ca();
    let made = Arc::default();
    let listener = Listener::bind_with(server_config(server(&ca)), budget(), tls::provider());
    let mut listener = listener.unwrap();
    let address = listener.local_address().unwrap();
    let connector = Connector::bind_with(client_config(agent(&ca)), budget(), noting(&made));
    let links = connect_to(&mut listener, &connector.unwrap(), address, &named()).await;
    links.unwrap();
    let made = made.lock().unwrap();
    let aes128 = u16::from(CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(made.keys().copied().collect::<Vec<_>>(), [aes128]);
    // Two for the first packet, whose cipher is fixed, and two each for the handshake, the data and
    // the next key of the data, which were negotiated.
    assert!(made[&aes128] >= 6, "{made:?}");
}
