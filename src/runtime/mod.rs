//! Does what the relay decided: the only code that touches sockets, TLS and the executor.

pub mod sock;
pub mod tls;
