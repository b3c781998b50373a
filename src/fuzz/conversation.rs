//! Stub.
pub fn conversation(_: &[u8]) {}
