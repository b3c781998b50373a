//! What an operator needs around the relay.
//!
//! [`import`] reads the config of the relay to be replaced; [`service`] speaks with the service manager; [`admin`] lets
//! an operator look into a running relay; [`metrics`] shows its figures over HTTP. Must not know connections, or how a
//! relay is started. The programs call it; nothing here calls back.

pub mod admin;
pub mod import;
pub mod metrics;
pub mod service;
