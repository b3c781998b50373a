//! MSRP relay: RFC 4976 on top of RFC 4975.

pub mod config;
pub mod control;
pub mod client;
pub mod proto;
pub mod relay;
pub mod runtime;
pub mod telemetry;
