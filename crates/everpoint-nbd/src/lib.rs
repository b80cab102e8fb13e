//! The Network Block Device protocol: a server for splitters and mounts, a client for sources.
