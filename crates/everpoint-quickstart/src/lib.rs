//! Agent, process server and vault on one machine, written to, attacked and restored, with a verdict.
