//! darter
fn main() {}
