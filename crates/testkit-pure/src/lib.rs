//! For tests of the pure core: what the fuzzer runs.

pub mod fuzz;
