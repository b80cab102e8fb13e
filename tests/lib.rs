//! Whole-system tests live beside this file.
