//! Where a test finds the programs that were built beside it.

use std::path::PathBuf;

/// The program `name` in the folder of the profile that the calling test or bench was built with.
///
/// Cargo tells a test the path of its own package's programs only, and the tests of the whole system are
/// a package of their own. `cargo xtask test` builds the programs before it runs those tests.
///
/// # Panics
///
/// When no such program was built, saying how to build it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the system names the running program");
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{name} is not built beside {}: run `cargo build --release --package {name}` first",
            exe.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "cargo build --release --package no-such-program")]
    fn a_program_that_was_not_built_is_named_with_the_command_that_builds_it() {
        let _ = program("no-such-program");
    }

    #[test]
    fn a_program_that_was_built_is_found() {
        let own = std::env::current_exe().unwrap();
        let name = own.file_name().unwrap().to_str().unwrap();
        assert_eq!(program(name), own);
    }
}
