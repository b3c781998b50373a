//! The running part: connections, cores, the clock. The only code of the server on glommio.
//!
//! One core is one pinned executor that owns its connections and its [`Relay`](msrp_relay_core::Relay); cores share
//! only bounded queues of plain data, and one immutable config. From the top down:
//!
//! * [`server`] is what the program holds, `supervisor` starts the cores and watches over them, as `orders` say;
//! * `run` is one core from its start to its end; connections come in by `listen` and `dial`;
//! * `conn` is the two tasks of a connection, `websocket` what is known of one by WebSocket; `migrate` moves a new one to the
//!   core where its session lives;
//! * `core` is what the tasks of a core share: the relay, the tables, the settings;
//! * `mesh` carries deliveries between cores, [`upgrade`] hands over between processes, [`inspect`] answers operators with
//!   what [`ask`] describes, `trace` shows heads, `settings` are made from the config.

pub mod ask;
mod conn;
mod core;
mod dial;
mod error;
pub mod inspect;
mod listen;
mod log;
mod mesh;
mod migrate;
mod orders;
mod pool;
pub mod preflight;
mod run;
pub mod server;
mod settings;
mod supervisor;
mod tasks;
mod trace;
pub mod upgrade;
mod websocket;

pub use error::StartError;
