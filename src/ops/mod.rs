//! What an operator needs around the relay.
//!
//! [`import`] reads the config of the relay that is there today; [`documents`] writes man pages and completions;
//! [`service`] speaks with the service manager.
//! Must not know: cores, connections, how a relay is started. The programs call it; nothing here calls back.

pub mod documents;
pub mod import;
pub mod service;
