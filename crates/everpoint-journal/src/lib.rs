//! A machine's history: path, commit, ownership and restore plans, as pure machines.
