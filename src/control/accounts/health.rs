//! Whether accounts can be asked at present; each change is logged once.
//!
//! Invariants: one log line when a backend fails and one when it is back, however many look-ups fail in between; a
//! replaced backend logs nothing more.

use std::cell::Cell;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Whether accounts can be asked, for other threads. Not before a backend has reported.
#[derive(Clone, Debug, Default)]
pub struct AccountsReady(Arc<AtomicBool>);

impl AccountsReady {
    /// True if the last look-up, or the last attempt to get at the accounts, succeeded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The reports of one backend.
#[derive(Debug)]
pub(super) struct Health {
    shared: AccountsReady,
    /// The last report, and its time.
    said: Cell<Option<(bool, Instant)>>,
    retired: Cell<bool>,
}

impl Health {
    pub(super) fn new(shared: AccountsReady) -> Self {
        Self { shared, said: Cell::new(None), retired: Cell::new(false) }
    }

    /// The accounts can be asked. `what` is their place, in words.
    pub(super) fn well(&self, what: &dyn Display) {
        match self.change(true) {
            Some(Some((_, since))) => {
                let seconds = since.elapsed().as_secs_f64();
                tracing::info!(accounts = %what, seconds, "Accounts are available again");
            }
            Some(None) => tracing::info!(accounts = %what, "Accounts are available"),
            None => {}
        }
    }

    /// The accounts cannot be asked.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(super) fn ill(&self, what: &dyn Display, reason: &dyn Display) {
        if self.change(false).is_some() {
            tracing::error!(
                accounts = %what,
                %reason,
                "Accounts are unavailable: clients that authenticate are told to try again"
            );
        } else {
            // The reason may be another one by then.
            tracing::debug!(accounts = %what, %reason, "Accounts are still unavailable");
        }
    }

    /// Another backend reports from here on.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// The report before, if this one differs.
    fn change(&self, well: bool) -> Option<Option<(bool, Instant)>> {
        if self.retired.get() {
            return None;
        }
        self.shared.0.store(well, Ordering::Relaxed);
        let before = self.said.get();
        if before.is_some_and(|(said, _)| said == well) {
            return None;
        }
        self.said.set(Some((well, Instant::now())));
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_news_once() {
        let shared = AccountsReady::default();
        let health = Health::new(shared.clone());
        assert!(!shared.is_ready());
        for (well, is_news) in [(false, true), (false, false), (true, true), (true, false), (false, true)] {
            assert_eq!(health.change(well).is_some(), is_news);
            assert_eq!(shared.is_ready(), well);
        }
    }

    #[test]
    fn a_replaced_backend_is_not_heard() {
        let shared = AccountsReady::default();
        let (old, new) = (Health::new(shared.clone()), Health::new(shared.clone()));
        old.retire();
        new.well(&"new");
        old.ill(&"old", &"gone");
        assert!(shared.is_ready());
    }
}
