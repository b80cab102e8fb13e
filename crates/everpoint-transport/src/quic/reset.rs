//! What lets a server that was restarted tell its old peers that it has forgotten them.
//!
//! A peer that goes on sending to a server that died learns of it by silence, which takes the whole
//! idle time, or by a *stateless reset* (RFC 9000, section 10.3): a packet that only who knows a
//! secret can make. The secret is derived from the server's private key, so that the same server has
//! it again after a restart, and nobody else ever.

use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn::{ConnectionIdGenerator, EndpointConfig};
use quinn_proto::HashedConnectionIdGenerator;

use crate::pki::Credentials;

/// Lets an endpoint reset the links of its earlier lives. Connection ids carry a keyed hash, so that
/// packets which no life of this server ever asked for are dropped without an answer.
pub(super) fn survive_restarts(endpoint: &mut EndpointConfig, credentials: &Credentials) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, credentials.key.secret_der());
    let secret = |of: &[u8]| hmac::sign(&key, of);
    let reset = secret(b"everpoint stateless reset 1");
    endpoint.reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    let ids = secret(b"everpoint connection ids 1");
    let ids = ids.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
    let ids = u64::from_le_bytes(*ids);
    endpoint.cid_generator(move || -> Box<dyn ConnectionIdGenerator> {
        Box::new(HashedConnectionIdGenerator::from_key(ids))
    });
}
