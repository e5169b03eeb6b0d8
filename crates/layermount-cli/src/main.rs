//! The `layermount` command.
fn main() {}
