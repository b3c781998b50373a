//! What the outside learns of the relay: log lines (`log` writes them, `line` formats them, `gate` bounds those that
//! strangers cause), the counters of each core in `counters`, and a record for each session in `accounting`.
//!
//! Must not know: when anything is logged or counted, or why.

mod accounting;
mod counters;
mod gate;
mod line;
mod log;

pub use accounting::{Accounting, AccountingError, Opened, Record, Records};
pub use counters::{
    Counter, Counters, CredentialEnd, LOOK_UP_SECONDS, LookUpEnd, LookUps, PUBLISHED_EVERY, STATUSES,
    Snapshot,
};
pub use gate::{Quota, Site, Source, WINDOW_SECONDS, lines_suppressed, pass};
pub(crate) use gate::{gated, pass_limit};
pub use log::{LogControl, Telemetry, TelemetryError, error_prefix, is_read_by_journal, log_panics};

/// The figures of a running relay at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What each core has counted.
    pub cores: Vec<Snapshot>,
    /// Whether accounts can be asked.
    pub accounts_ready: bool,
    /// Account look-ups that wait for their turn.
    pub look_ups_waiting: usize,
    /// Name look-ups that wait for their turn.
    pub resolves_waiting: usize,
    /// Sessions of the predecessor, while it drains.
    pub predecessor_sessions: u64,
    /// Connects to next hops that wait for their turn.
    pub dials_waiting: usize,
}
