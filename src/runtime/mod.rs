//! What does: sockets, TLS, cores, the clock. The only code on glommio, but for the engine and the client tool.
//!
//! One core is one pinned executor that owns its connections and its [`Relay`](crate::relay::Relay);
//! nothing is shared between cores but bounded queues of plain data. [`boot`] starts and supervises
//! them.

pub mod boot;
mod conn;
mod core;
mod dial;
mod hand_over;
mod heritage;
pub mod inspect;
mod launch;
mod log;
mod mesh;
mod pass_on;
mod pool;
pub mod preflight;
pub mod succession;
mod tasks;
pub mod trace;

pub use engine::{deadline, sock};
pub use msrp_tls::{self as tls, records};
