//! A cluster in process for tests: simulated clock, disk and network. Never
//! linked into the product.

pub mod server;

pub use server::{InProcess, TestServer};
