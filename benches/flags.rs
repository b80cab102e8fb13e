//! The flags of the benches that drive themselves.

/// Whether the bench shall only show that it works: `cargo xtask test` runs it so.
pub fn is_brief() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// The number behind `flag`, or `default`.
///
/// # Panics
///
/// If it is none.
pub fn number(flag: &str, default: usize) -> usize {
    let mut args = std::env::args().skip_while(|arg| arg != flag);
    args.nth(1)
        .map_or(default, |text| text.parse().expect("a number"))
}
