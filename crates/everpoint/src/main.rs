//! The everpoint command line: parses, calls, prints.

fn main() {}
