//! What every file keeps: a sign on its door, a size, a name that says something, nothing unfinished.

use super::Source;
use super::tokens;

/// A file longer than this has more than one thing to say, its tests included.
const FILE_LINES_MAX: usize = 800;
/// A function that is longer than this cannot be seen whole; 70 is what to aim at.
const FUNCTION_LINES_MAX: usize = 100;
/// Names under which strangers collect.
const SAYS_NOTHING: [&str; 9] = [
    "common", "helper", "helpers", "manager", "misc", "mod", "prelude", "util", "utils",
];
/// Signs of work that is not done. In two pieces each, so that this file does not find itself.
const UNFINISHED: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("#[ig", "nore"),
];

/// Files whose first line does not say what they are for.
pub(crate) fn without_a_sign(sources: &[Source]) -> Vec<String> {
    let without = sources.iter().filter(|source| {
        let says = source
            .text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//! "));
        says.is_none_or(|says| says.trim().is_empty())
    });
    without
        .map(|source| source.finding(1, "does not begin with `//! ` and what it is for"))
        .collect()
}

pub(crate) fn too_long(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        if FILE_LINES_MAX < lines {
            findings.push(source.finding(lines, format!("the file has {lines} lines")));
        }
    }
    findings
}

pub(crate) fn long_functions(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for function in tokens::functions(&source.text) {
            if FUNCTION_LINES_MAX < function.lines {
                let what = format!("`{}` has {} lines", function.name, function.lines);
                findings.push(source.finding(function.line, what));
            }
        }
    }
    findings
}

/// Folders and files whose names do not say what is in them, `mod.rs` among them.
pub(crate) fn badly_named(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let path = source.path.with_extension("");
        let names = path.iter().filter_map(|name| name.to_str());
        let mut words = names.flat_map(|name| name.split(['-', '_']));
        if let Some(word) = words.find(|word| SAYS_NOTHING.contains(word)) {
            findings.push(source.finding(1, format!("`{word}` does not say what is in it")));
        }
    }
    findings
}

pub(crate) fn unfinished(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
                findings.push(source.finding(index + 1, format!("{word} is left")));
            }
        }
    }
    findings
}

/// Whether `word` stands in `line` by itself, not inside a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    let ends_open = word.ends_with(goes_on);
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let inside = before.is_some_and(goes_on) || (ends_open && after.is_some_and(goes_on));
        !inside
    })
}
