//! What an operator needs around the relay.
//!
//! [`import`] reads the config of the relay that is there today; [`service`] speaks with the service manager.
//! Must not know: cores, connections, how a relay is started. `bin/msrprelay` calls it; nothing here calls back.

pub mod import;
pub mod service;
