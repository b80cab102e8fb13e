//! Every byte string that outlives a process: encode, decode, golden files.
