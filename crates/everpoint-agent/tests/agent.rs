//! An agent in this process against a process server that is made to do anything.
//!
//! Both ends of the wire are real (QUIC with mutual TLS on loopback, NBD on a unix socket, files);
//! the server is `rig/fake_server.rs`, which takes blocks by the real sink's rules.

#[path = "agent/control.rs"]
mod control;
#[path = "rig/fake_server.rs"]
mod fake_server;
#[path = "agent/order.rs"]
mod order;
#[path = "agent/restart.rs"]
mod restart;
#[path = "agent/resync.rs"]
mod resync;
#[path = "agent/session.rs"]
mod session;
#[path = "rig/workshop.rs"]
mod workshop;
