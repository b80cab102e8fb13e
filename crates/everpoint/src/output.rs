//! What is printed: aligned tables for people, one JSON object for programs, and nothing that could steer a
//! terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::failure::{Code, Failure};

/// Prints one object, or the lines that say the same.
///
/// # Errors
///
/// When nobody takes what is printed.
pub(crate) fn print<T: Serialize>(
    json: bool,
    value: &T,
    lines: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let text = if json {
        serde_json::to_string(value).map_err(|error| Failure::of(Code::Failed, &error))? + "\n"
    } else {
        lines(value)
    };
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // `everpoint … | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::of(Code::Failed, &error).while_doing("stdout")),
        Ok(()) => Ok(()),
    }
}

/// The text with every control character written out, line ends too.
pub(crate) fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// The same, but lines end.
pub(crate) fn escape_lines(text: &str) -> String {
    escape_but(text, |c| c == '\n')
}

fn escape_but(text: &str, keeps: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && !keeps(c)) || is_invisible(c) {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Characters that change the order or the look of those around them.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Rows of text in aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        let heading = heading.iter().map(|&name| name.to_owned()).collect();
        Self {
            rows: vec![heading],
        }
    }

    /// Two columns without a heading: names and values.
    pub(crate) const fn plain() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. Cells are escaped here.
    pub(crate) fn row<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells = cells.into_iter().map(|cell| escape(cell.as_ref()));
        self.rows.push(cells.collect());
    }

    /// The table as lines. Columns of numbers stand at the right.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let right: Vec<bool> = (0..columns).map(|column| self.is_numeric(column)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let gap = if column == 0 { "" } else { "  " };
                let written = if right[column] {
                    write!(line, "{gap}{cell:>width$}")
                } else {
                    write!(line, "{gap}{cell:<width$}")
                };
                written.expect("writing to a string does not fail");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Whether everything below the heading begins with a digit or is missing.
    fn is_numeric(&self, column: usize) -> bool {
        let cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
        let mut cells = cells.filter(|cell| *cell != "-").peekable();
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "%", "s", "ms", "d"];
        let is_number = |cell: &String| {
            let (number, unit) = cell.split_once(' ').unwrap_or((cell, "B"));
            let digits = number.trim_end_matches('%');
            digits.parse::<f64>().is_ok() && units.contains(&unit)
        };
        cells.peek().is_some() && cells.all(is_number)
    }
}

/// A length for people: three digits and a binary unit.
pub(crate) fn bytes(len: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if len < 1_024 {
        return format!("{len} B");
    }
    let (mut scaled, mut unit) = (len, 0);
    while 1_024 * 1_024 <= scaled && unit + 1 < UNITS.len() {
        scaled /= 1_024;
        unit += 1;
    }
    let tenths = u128::from(scaled) * 10 / 1_024;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_at_the_right() {
        let mut table = Table::new(&["name", "size", "state"]);
        table.row(["data", "1.0 GiB", "level"]);
        table.row(["a longer name", "12 B", "-"]);
        let expected = "name              size  state\n\
                        data           1.0 GiB  level\n\
                        a longer name     12 B  -\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn a_name_cannot_steer_a_terminal_or_break_a_table() {
        let mut table = Table::plain();
        table.row(["evil\u{1b}]0;x\u{7}\nname\u{202e}", "fine ä"]);
        let rendered = table.render();
        assert_eq!(
            rendered,
            "evil\\u{1b}]0;x\\u{7}\\u{a}name\\u{202e}  fine ä\n"
        );
    }

    #[test]
    fn lengths_are_told_in_binary_units() {
        for (len, told) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (256 << 20, "256.0 MiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 40, "3.0 TiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(len), told);
        }
    }
}
