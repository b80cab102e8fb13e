//! The same over TLS.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::rigs::page_blobs::dates;

#[tokio::test]
async fn a_server_with_a_certificate_speaks_tls() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.clone()], key);
    let server = PageBlobServer::start(PageBlobSpec {
        tls: Some(Arc::new(config.unwrap())),
        ..PageBlobSpec::default()
    });
    let server = server.unwrap();
    let place = server.endpoint().strip_prefix("https://").unwrap();
    let (address, _) = place.split_once('/').unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let date = dates::http_date(SystemTime::now());
    let ask = format!(
        "GET /everpoint/disks?restype=container HTTP/1.1\r\nhost: x\r\nx-ms-version: 2023-11-03\r\n\
         x-ms-date: {date}\r\nauthorization: Bearer token\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // How the connection ends is not asked.
    let _ = stream.read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}
