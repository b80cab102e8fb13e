//! Why a message of a peer was not understood.

/// The bytes are no message of this protocol. The connection that brought them is closed; nothing
/// else is touched.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// Not protobuf, or not of this schema.
    #[error("{what}: not a message of this protocol")]
    Malformed { what: &'static str },
    /// The message lacks its content, or holds one that this build does not know.
    #[error("{what}: no content that this build knows")]
    Unknown { what: &'static str },
    /// A field breaks its rule.
    #[error("{what}: {field} {rule}")]
    Field {
        what: &'static str,
        field: &'static str,
        rule: &'static str,
    },
}
