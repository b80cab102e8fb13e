//! UDP sockets with large buffers: asked for, and read back.
//!
//! Linux' default of 208 KiB drops bursts that a busy core does not fetch in time. How much a socket
//! really holds decides how far ahead peers may send, so the granted size is read back.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// A bound socket and what it can hold for this side.
#[derive(Debug)]
pub(super) struct BoundSocket {
    pub(super) socket: UdpSocket,
    /// Bytes of payload that can lie unread.
    pub(super) receive_len: usize,
}

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is taken, or not this machine's, or not allowed.
    #[error("{address} could not be bound")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// An option was refused.
    #[error("a UDP socket could not be set up")]
    Setup(#[source] io::Error),
}

/// Binds `address`, with `buffer_len` bytes each way or what the kernel grants of it.
pub(super) fn bind(address: SocketAddr, buffer_len: usize) -> Result<BoundSocket, SocketError> {
    let domain = Domain::for_address(address);
    let socket =
        Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(SocketError::Setup)?;
    if address.is_ipv6() {
        socket.set_only_v6(false).map_err(SocketError::Setup)?;
    }
    // The kernel grants what net.core.rmem_max and wmem_max allow, without an error.
    socket
        .set_recv_buffer_size(buffer_len)
        .map_err(SocketError::Setup)?;
    socket
        .set_send_buffer_size(buffer_len)
        .map_err(SocketError::Setup)?;
    socket
        .bind(&address.into())
        .map_err(|source| SocketError::Bind { address, source })?;
    // Linux reports twice what it grants: half is for its own bookkeeping (socket(7)).
    let granted = socket.recv_buffer_size().map_err(SocketError::Setup)? / 2;
    if granted < buffer_len {
        tracing::info!(
            wanted = buffer_len,
            granted,
            "the kernel grants a smaller receive buffer; raise net.core.rmem_max for more throughput"
        );
    }
    Ok(BoundSocket {
        socket: socket.into(),
        receive_len: granted,
    })
}
