//! Rust code as tokens: comments are gone, texts cannot be mistaken for code, tests can be left out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use super::Source;

/// Words that begin an item or a statement, which ends with braces or a semicolon.
const ITEM_WORDS: [&str; 18] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "pub",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
    "crate",
];

/// A name with all its segments, such as `std::fs::read`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) path: String,
    pub(crate) line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From `fn` to the closing brace.
    pub(crate) lines: usize,
}

/// Every path that code outside of tests names, those in macros' arguments too. A list in a `use` gives
/// each of its members whole.
pub(crate) fn shipped_paths(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    walk(&trees(parse(text)), "", &mut found);
    found
}

/// Every function with a body.
pub(crate) fn functions(text: &str) -> Vec<Function> {
    let mut found = Vec::new();
    find_functions(&trees(parse(text)), &mut found);
    found
}

/// Files that only tests use: those named `tests`, and those of modules that are declared for tests.
pub(crate) fn test_files(sources: &[Source]) -> BTreeSet<PathBuf> {
    let mut roots = Vec::new();
    for source in sources {
        let is_root = ["lib", "main"]
            .iter()
            .any(|name| source.path.ends_with(format!("{name}.rs")));
        let beside = source.path.parent().map(PathBuf::from).unwrap_or_default();
        let inside = if is_root {
            beside
        } else {
            source.path.with_extension("")
        };
        for module in test_modules(&trees(parse(&source.text))) {
            roots.push(inside.join(module));
        }
    }
    let only_tests = |source: &&Source| {
        let own = source.path.with_extension("");
        own.iter().any(|name| name == "tests") || roots.iter().any(|root| own.starts_with(root))
    };
    let files = sources.iter().filter(only_tests);
    files.map(|source| source.path.clone()).collect()
}

fn parse(text: &str) -> TokenStream {
    text.parse().expect("the compiler reads it, so it is Rust")
}

fn trees(stream: TokenStream) -> Vec<TokenTree> {
    stream.into_iter().collect()
}

fn walk(tokens: &[TokenTree], prefix: &str, found: &mut Vec<Named>) {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if let Some((attribute, end)) = attribute(tokens, at) {
            let is_inner = is_punct(tokens.get(at + 1), '!');
            match (is_for_tests(attribute), is_inner) {
                (true, true) => return,
                (true, false) => at = end_of_item(tokens, end),
                (false, _) => at = end,
            }
            continue;
        }
        match token {
            TokenTree::Ident(first) => {
                let line = first.span().start().line;
                let (path, end) = path(tokens, at);
                let path = format!("{prefix}{path}");
                at = end;
                if let Some(list) = use_list(tokens, at) {
                    walk(&trees(list.stream()), &format!("{path}::"), found);
                    at += 3;
                } else {
                    let path = path.strip_suffix("::self").unwrap_or(&path).to_owned();
                    found.push(Named { path, line });
                }
            }
            TokenTree::Group(group) => {
                walk(&trees(group.stream()), "", found);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// The path that begins at `at`, where a name stands, and where it ends.
fn path(tokens: &[TokenTree], mut at: usize) -> (String, usize) {
    let mut path = tokens[at].to_string();
    at += 1;
    while is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':') {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(next)) => path += &format!("::{next}"),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => path += "::*",
            _ => break,
        }
        at += 3;
    }
    (path, at)
}

/// The braces after `::`, which only a `use` has.
fn use_list(tokens: &[TokenTree], at: usize) -> Option<&Group> {
    let colons = is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':');
    braces(tokens.get(at + 2)).filter(|_| colons)
}

/// The attribute that begins at `at`, and where it ends.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<(&Group, usize)> {
    if !is_punct(tokens.get(at), '#') {
        return None;
    }
    let at = at + 1 + usize::from(is_punct(tokens.get(at + 1), '!'));
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some((group, at + 1))
        }
        _ => None,
    }
}

/// What may also be built without tests counts as shipped.
fn is_for_tests(attribute: &Group) -> bool {
    let said: String = attribute.stream().to_string();
    let said: String = said.split_whitespace().collect();
    said == "test"
        || said.ends_with("::test")
        || said == "cfg(test)"
        || said.starts_with("cfg(all(test,")
}

/// Where the item, field or statement ends that begins at `at`.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some((_, end)) = attribute(tokens, at) {
        at = end;
    }
    let word = tokens.get(at).map(ToString::to_string).unwrap_or_default();
    let is_item = ITEM_WORDS.contains(&word.as_str());
    while let Some(token) = tokens.get(at) {
        let ends = is_punct(Some(token), ';')
            || if is_item {
                braces(Some(token)).is_some()
            } else {
                is_punct(Some(token), ',')
            };
        at += 1;
        if ends {
            break;
        }
    }
    at
}

/// Names of modules that are declared for tests, with their bodies in files of their own.
fn test_modules(tokens: &[TokenTree]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Some((found, end)) = attribute(tokens, at) else {
            at += 1;
            continue;
        };
        at = end;
        if is_for_tests(found) {
            let item = &tokens[end..end_of_item(tokens, end)];
            let words: Vec<String> = item.iter().map(ToString::to_string).collect();
            if let [.., module, name, semicolon] = &words[..]
                && (module.as_str(), semicolon.as_str()) == ("mod", ";")
            {
                names.push(name.clone());
            }
        }
    }
    names
}

fn find_functions(tokens: &[TokenTree], found: &mut Vec<Function>) {
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            find_functions(&trees(group.stream()), found);
        }
        let (TokenTree::Ident(word), Some(TokenTree::Ident(name))) = (token, tokens.get(at + 1))
        else {
            continue;
        };
        if word != "fn" {
            continue;
        }
        let rest = &tokens[at..];
        let end = rest
            .iter()
            .position(|token| is_punct(Some(token), ';') || braces(Some(token)).is_some());
        let body = end.and_then(|end| braces(rest.get(end)));
        if let Some(body) = body {
            let line = word.span().start().line;
            found.push(Function {
                name: name.to_string(),
                line,
                lines: body.span_close().end().line + 1 - line,
            });
        }
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn braces(token: Option<&TokenTree>) -> Option<&Group> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => Some(group),
        _ => None,
    }
}
