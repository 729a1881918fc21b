//! A cluster in process for tests: simulated clock, disk and network. Never
//! linked into the product.
