//! The role on the vault alone: list points, restore.
