//! The lists of planted bugs and of marks, held against the code that they are about: none is listed and
//! not there.

use everpoint_marks::{Bug, Mark};

use super::Source;

/// Names of `listed` that stand in no `word!(…)` of the crates, but for the crate that lists them.
fn absent<'a>(
    sources: &[Source],
    word: &str,
    listed: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let shipped = |source: &&Source| {
        let path = source.path.to_string_lossy();
        let listing = path.starts_with("crates/everpoint-marks/");
        path.starts_with("crates/") && path.contains("/src/") && !listing
    };
    let sources: Vec<&Source> = sources.iter().filter(shipped).collect();
    let stands = |name: &str| {
        let place = format!("{word}!({name})");
        sources.iter().any(|source| source.text.contains(&place))
    };
    let absent = listed.filter(|name| !stands(name));
    absent
        .map(|name| format!("{word}!({name}) is listed and stands nowhere"))
        .collect()
}

/// Bugs that are planted nowhere.
pub(crate) fn unplanted(sources: &[Source]) -> Vec<String> {
    absent(sources, "planted", Bug::ALL.iter().map(|bug| bug.name()))
}

/// Marks that no code reaches.
pub(crate) fn unmarked(sources: &[Source]) -> Vec<String> {
    absent(sources, "reached", Mark::ALL.iter().map(|mark| mark.name()))
}
