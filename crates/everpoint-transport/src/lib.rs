//! QUIC with mutual TLS, and the certificates for it.
