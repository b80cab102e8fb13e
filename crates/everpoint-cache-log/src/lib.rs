//! The process server's durable holding area: zeroed files, group commit, recovery by scan.
