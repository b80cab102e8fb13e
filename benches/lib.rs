//! Whole-system benches live beside this file.
