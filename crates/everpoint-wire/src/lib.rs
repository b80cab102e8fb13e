//! Frames and messages between agent, process server and command line, and their versions.
