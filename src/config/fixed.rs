//! The keys of a running relay that only a restart can change.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::values::{Config, Listen, LogFormat};

/// The values of the config that a relay keeps until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    listen: Vec<Listen>,
    hostname: String,
    cores: Vec<usize>,
    lookups_waiting_max: usize,
    log_format: LogFormat,
    admin: Option<PathBuf>,
    metrics: Option<SocketAddr>,
}

impl From<&Config> for Fixed {
    fn from(config: &Config) -> Self {
        Self {
            listen: config.listen.clone(),
            hostname: config.hostname.clone(),
            cores: config.cores.clone(),
            lookups_waiting_max: config.limits.lookups_waiting_max,
            log_format: config.log.format,
            admin: config.admin.clone(),
            metrics: config.metrics.map(|metrics| metrics.address),
        }
    }
}

impl Fixed {
    /// The keys for which `config` has other values, which need a restart.
    #[must_use]
    pub fn differing(&self, config: &Config) -> Vec<&'static str> {
        let other = Self::from(config);
        let keys = [
            ("listen", self.listen != other.listen),
            ("hostname", self.hostname != other.hostname),
            ("cores", self.cores != other.cores),
            ("limits.lookups_waiting_max", self.lookups_waiting_max != other.lookups_waiting_max),
            ("log.format", self.log_format != other.log_format),
            ("admin.socket", self.admin != other.admin),
            ("metrics.address", self.metrics != other.metrics),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}
