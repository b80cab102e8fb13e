//! The session of one disk: source and sink machines, resync decisions.
