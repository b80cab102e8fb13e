//! The vault's own certificates: a CA, one certificate for each agent and server, and their files.
//!
//! One CA belongs to one vault; nothing else is trusted, public roots least of all. Keys are ECDSA
//! P-256 and never leave the machine they are made on except as the file that `everpoint pki issue`
//! writes. A file with a key has mode 0600 and is refused when others can read it.
//!
//! | file | made by | who needs it |
//! |---|---|---|
//! | `ca.pem` | `pki init` | everybody |
//! | `ca.key` | `pki init` | only who issues; keep it off the servers |
//! | `<name>.pem`, `<name>.key` | `pki issue` | that agent or server |
//!
//! What this leaves out: revocation. A certificate that must not be used any more is refused by the
//! process server, which knows the machines; certificates end after a year.

mod credentials;
mod files;
mod issue;

pub use credentials::{
    CredentialFault, CredentialPaths, Credentials, EXPIRY_WARNING, Expiring, LoadError,
    warn_if_expiring,
};
pub use files::{Overwrite, PEM_FILE_LEN_MAX, ReadError, WriteError};
pub use issue::{CA_LIFETIME, CERTIFICATE_LIFETIME, Ca, IssueError, Issued, KeyPem};

#[cfg(test)]
mod tests;
