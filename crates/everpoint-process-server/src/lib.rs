//! The role between agents and vault: ingest, cache log, commit, ownership.
