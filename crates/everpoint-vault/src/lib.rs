//! One object-store prefix of write-once objects, created once and read back.
