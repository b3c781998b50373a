//! Why the relay cannot start, or cannot continue with another config.

use std::io;

use engine::sock::ListenError;
use msrp_tls::TlsSetupError;

use crate::control::ControlError;
use crate::telemetry::AccountingError;

/// Why the relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The file of accounting records cannot be opened.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
    /// The control plane cannot start.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The new certificates do not cover the name that the relay keeps until it ends.
    #[error(
        "hostname: {0} stands in the URIs of a relay that runs, and no certificate of the new config is for it: name one \
         that is, or restart the relay"
    )]
    Hostname(String),
    /// An executor cannot start.
    #[error("core {index} on CPU {cpu}: {reason}")]
    Core {
        /// Position of the core.
        index: usize,
        /// The CPU to pin it to.
        cpu: usize,
        /// What the engine said.
        reason: String,
    },
    /// The operating system refuses something.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}
