//! Any text as one word of a shell, as a string of Bicep, or as one of Azure Resource Manager.

use std::fmt::Write as _;

/// One word for a POSIX shell: nothing in it means anything.
pub(super) fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A string literal of Bicep. Source: Bicep, "Data types", strings.
pub(super) fn bicep(text: &str) -> String {
    let mut quoted = "'".to_owned();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => quoted.push_str(r"\\"),
            '\'' => quoted.push_str(r"\'"),
            '\n' => quoted.push_str(r"\n"),
            '\r' => quoted.push_str(r"\r"),
            '\t' => quoted.push_str(r"\t"),
            // Else it would begin an expression.
            '$' if rest.peek() == Some(&'{') => quoted.push_str(r"\$"),
            c if c.is_control() => {
                write!(quoted, r"\u{{{:x}}}", u32::from(c)).expect("a string takes it");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A value of a template that is this text and no expression. Source: Azure, "Syntax and expressions in ARM
/// templates", escape characters.
pub(super) fn template(text: &str) -> String {
    if text.starts_with('[') && text.ends_with(']') {
        return format!("[{text}");
    }
    text.to_owned()
}

/// A string within an expression of a template.
pub(super) fn expression(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const HOSTILE: [&str; 12] = [
        "",
        "plain",
        "it's",
        "'; touch /tmp/x; '",
        "$(id) `id` ${HOME} $HOME",
        r"back\slash\' and \n",
        "two\nlines\tand\r\u{1b}[2J",
        "\"double\"",
        "* ? ~ & | < > # !",
        "ünïcödé \u{202e}",
        "''''",
        "$${${",
    ];

    /// A shell is asked what it makes of it.
    #[test]
    fn a_shell_reads_every_text_as_one_word() {
        for text in HOSTILE {
            let script = format!("printf '%s|' {}", shell(text));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            let read = String::from_utf8(output.stdout).unwrap();
            assert_eq!(read, format!("{text}|"), "{script}");
        }
    }

    /// What Bicep makes of a literal, and `None` where it would end early, or hold an expression.
    fn read_bicep(literal: &str) -> Option<String> {
        let mut rest = literal.strip_prefix('\'')?.strip_suffix('\'')?.chars();
        let mut read = String::new();
        while let Some(c) = rest.next() {
            match c {
                '\'' | '\n' | '\r' => return None,
                '$' if rest.as_str().starts_with('{') => return None,
                '\\' => match rest.next()? {
                    'n' => read.push('\n'),
                    'r' => read.push('\r'),
                    't' => read.push('\t'),
                    'u' => {
                        let (digits, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                        read.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                        rest = after.chars();
                    }
                    c @ ('\\' | '\'' | '$') => read.push(c),
                    _ => return None,
                },
                c => read.push(c),
            }
        }
        Some(read)
    }

    #[test]
    fn bicep_reads_every_text_as_one_string() {
        for text in HOSTILE {
            let literal = bicep(text);
            assert_eq!(read_bicep(&literal).as_deref(), Some(text), "{literal}");
        }
        assert_eq!(bicep("it's ${x}"), r"'it\'s \${x}'");
        assert_eq!(bicep("$x"), "'$x'");
    }

    #[test]
    fn a_template_takes_no_text_for_an_expression() {
        assert_eq!(template("[resourceGroup().id]"), "[[resourceGroup().id]");
        assert_eq!(template("[half"), "[half");
        assert_eq!(template("plain"), "plain");
        assert_eq!(expression("it's"), "'it''s'");
    }
}
