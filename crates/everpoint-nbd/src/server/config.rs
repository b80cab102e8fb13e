//! What bounds a server.

use std::time::Duration;

use everpoint_units::ByteLen;
use tokio::sync::Semaphore;

use super::connection::ConnectionLimits;
use crate::protocol::PAYLOAD_LEN_MAX;

/// Smallest limit of a payload: every server must read 64 KiB in one piece. Unit: bytes. Source:
/// specification, `NBD_CMD_READ`, on `EOVERFLOW`.
const PAYLOAD_LEN_MIN: u32 = 64 << 10;

/// Most connections that any server is configured for. Ours.
const CONNECTION_COUNT_LIMIT: usize = 1 << 16;

/// The limits of a server. All are enforced; the defaults suit a machine with a few disks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerConfig {
    /// Connections open at one time, over all listeners; more are closed at once. At most 65,536.
    /// Each costs 64 KiB besides its payloads.
    pub connection_count_max: usize,
    /// Exports attached at one time.
    pub export_count_max: usize,
    /// Requests of one connection that run at one time; more wait in the socket. At least 1.
    pub request_count_max: usize,
    /// Longest read or write, as clients are told. Unit: bytes; 64 KiB to 32 MiB, a power of two.
    pub payload_len_max: u32,
    /// Payload of one connection in memory on the server's account, from the moment a request is
    /// read until a write's export has returned, or a read's reply is sent. At least
    /// `payload_len_max`.
    pub connection_bytes_max: ByteLen,
    /// The same over all connections. At least `payload_len_max`, at most 2^60. Connections wait in
    /// the order of their requests.
    pub server_bytes_max: ByteLen,
    /// How long a client may take from its connection to the choice of an export.
    pub handshake_max: Duration,
    /// How long a client may stop inside a request, or leave its replies unread, before it is given
    /// up. It counts as stopped while it moves less than 64 KiB in this time. A client between two
    /// requests may be silent for ever.
    pub stall_max: Duration,
    /// The same once a connection is ending.
    pub drain_max: Duration,
}

/// A limit that does not fit. The message names the field and the bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ServerConfigError {
    /// Not a power of two from 64 KiB to 32 MiB.
    #[error("payload_len_max is {found}, must be a power of two from 65536 to 33554432")]
    PayloadLen {
        /// What was configured. Unit: bytes.
        found: u32,
    },
    /// Below one payload.
    #[error("{field} is {found}, must be at least payload_len_max and at most 2^60")]
    Bytes {
        /// Which.
        field: &'static str,
        /// What was configured.
        found: ByteLen,
    },
    /// Zero, or too many.
    #[error("{field} is {found}, must be from 1 to {limit}")]
    Count {
        /// Which.
        field: &'static str,
        /// What was configured.
        found: usize,
        /// The most.
        limit: usize,
    },
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connection_count_max: 256,
            export_count_max: 4_096,
            request_count_max: 128,
            payload_len_max: PAYLOAD_LEN_MAX,
            connection_bytes_max: ByteLen(64 << 20),
            server_bytes_max: ByteLen(256 << 20),
            handshake_max: Duration::from_secs(10),
            stall_max: Duration::from_secs(60),
            drain_max: Duration::from_secs(5),
        }
    }
}

impl ServerConfig {
    pub(super) fn check(&self) -> Result<(), ServerConfigError> {
        let payload = self.payload_len_max;
        if !payload.is_power_of_two() || !(PAYLOAD_LEN_MIN..=PAYLOAD_LEN_MAX).contains(&payload) {
            return Err(ServerConfigError::PayloadLen { found: payload });
        }
        for (field, found) in [
            ("connection_bytes_max", self.connection_bytes_max),
            ("server_bytes_max", self.server_bytes_max),
        ] {
            if !(u64::from(payload)..=1 << 60).contains(&found.0) {
                return Err(ServerConfigError::Bytes { field, found });
            }
        }
        for (field, found, limit) in [
            (
                "connection_count_max",
                self.connection_count_max,
                CONNECTION_COUNT_LIMIT,
            ),
            ("export_count_max", self.export_count_max, usize::MAX),
            ("request_count_max", self.request_count_max, usize::MAX),
        ] {
            if !(1..=limit).contains(&found) {
                return Err(ServerConfigError::Count {
                    field,
                    found,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// The whole budget. Unit: bytes.
    pub(super) fn budget(&self) -> usize {
        saturated(self.server_bytes_max).min(Semaphore::MAX_PERMITS)
    }

    pub(super) fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            request_count_max: self.request_count_max,
            bytes_max: saturated(self.connection_bytes_max),
            stall_max: self.stall_max,
            drain_max: self.drain_max,
        }
    }
}

fn saturated(len: ByteLen) -> usize {
    usize::try_from(len.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ServerConfig)) -> ServerConfigError {
        let mut config = ServerConfig::default();
        change(&mut config);
        config.check().expect_err("does not fit")
    }

    #[test]
    fn the_defaults_fit() {
        assert_eq!(ServerConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_limit_that_does_not_fit_is_named() {
        for found in [0, 1 << 15, (1 << 20) + 512, 64 << 20] {
            let error = refused(|config| config.payload_len_max = found);
            assert_eq!(error, ServerConfigError::PayloadLen { found });
        }
        let error = refused(|config| config.server_bytes_max = ByteLen(1 << 20));
        assert!(error.to_string().starts_with("server_bytes_max"));
        let error = refused(|config| config.connection_bytes_max = ByteLen(0));
        assert!(error.to_string().starts_with("connection_bytes_max"));
        let error = refused(|config| config.request_count_max = 0);
        assert!(error.to_string().starts_with("request_count_max"));
        let error = refused(|config| config.connection_count_max = 1 << 17);
        assert!(error.to_string().starts_with("connection_count_max"));
    }
}
