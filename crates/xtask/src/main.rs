//! The project's own chores: test, soak, bench, generated code, images.

fn main() {}
