//! One process takes over from another without a gap.
//!
//! `line` is the socket pair between the two, [`generation`] what one knows of the others and sends them, [`handoff`]
//! what is handed over at the beginning, `pass_on` a connection whose session lives in the other process.

pub mod generation;
pub mod handoff;
pub mod line;
mod pass_on;

pub use generation::{Generation, Generations};
pub use handoff::{Handoff, ReceivedHandoff};
pub use line::{Line, UpgradeError};
pub(super) use pass_on::PassOn;
