//! The binary.
mod pki;
fn main() {}
