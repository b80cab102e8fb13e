//! What the rules promise, tried in all ways that a small world allows.
//!
//! The crate has two halves. [`model`] explores small worlds completely: every order of steps, every
//! late create, every crash. The simulated world, in which the roles themselves run, stands beside it.

pub mod model;
