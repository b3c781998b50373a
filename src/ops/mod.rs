//! What an operator needs around the relay.
//!
//! [`import`] reads the config of the relay that is there today; [`documents`] writes man pages and completions;
//! [`service`] speaks with the service manager; [`metrics`] shows the relay's figures over HTTP.
//! Must not know: cores, connections, how a relay is started. The programs call it; nothing here calls back.

pub mod documents;
pub mod import;
pub mod metrics;
pub mod service;
