//! Tells an operator that a client asks for a realm without accounts, where every password fails.
//!
//! A client that addresses AUTH to the relay's own name, while the accounts are of a SIP domain, gets 401 like a client
//! with a wrong password. The operator must see the difference.
//!
//! Invariants: the line depends on the realm alone, never on the user; it is bounded, because a stranger can cause it;
//! the work is the same for each user of a realm (req S9). Must not know how accounts are stored.

use crate::telemetry::{Site, Source, gated};

/// Realms that are named in the line.
const NAMED_MAX: usize = 5;
/// Realms that are remembered if not all are known.
const REMEMBERED_MAX: usize = 256;
/// Characters of a realm that a stranger may have made up.
const CHARS_MAX: usize = 64;

/// The known realms that have accounts. They are compared byte by byte.
#[derive(Debug)]
pub(super) struct Realms {
    with_accounts: Vec<String>,
    are_all: bool,
}

impl Realms {
    /// Exactly these realms have accounts.
    pub(super) fn all(mut with_accounts: Vec<String>) -> Self {
        with_accounts.sort_unstable();
        Self { with_accounts, are_all: true }
    }

    #[cfg(any(feature = "mysql", feature = "postgres"))]
    /// For a storage that does not list its realms: those in which an account was found.
    pub(super) fn found_so_far() -> Self {
        Self { with_accounts: Vec::new(), are_all: false }
    }

    #[cfg(any(feature = "mysql", feature = "postgres"))]
    /// This realm has an account.
    pub(super) fn add(&mut self, realm: &str) {
        if self.with_accounts.len() < REMEMBERED_MAX
            && let Err(at) = self.with_accounts.binary_search_by(|known| known.as_str().cmp(realm))
        {
            self.with_accounts.insert(at, realm.to_owned());
        }
    }

    /// Whether to write the line: no account is known in this realm.
    fn lacks(&self, realm: &str) -> bool {
        let remembers_all = self.are_all || self.with_accounts.len() < REMEMBERED_MAX;
        // The check of a file at the relay's start is for no realm.
        !realm.is_empty()
            && remembers_all
            && self.with_accounts.binary_search_by(|known| known.as_str().cmp(realm)).is_err()
    }

    /// An account was asked for in `realm`.
    pub(super) fn tell(&self, realm: &str) {
        if !self.lacks(realm) {
            return;
        }
        let (site, source) = (Site::RealmWithoutAccounts, Source::of(realm));
        let realm: String = realm.chars().take(CHARS_MAX).collect();
        let accounts_for = (!self.with_accounts.is_empty()).then(|| self.shown());
        if self.are_all {
            gated!(
                warn,
                site,
                source,
                { realm, accounts_for },
                "AUTH for a realm without accounts: set realm in the config, or address AUTH to the SIP domain"
            );
        } else {
            gated!(
                warn,
                site,
                source,
                { realm, accounts_for },
                "AUTH for a realm in which no account was found so far: see realm in the config"
            );
        }
    }

    fn shown(&self) -> String {
        let mut shown = self.with_accounts.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        if let Some(more) = self.with_accounts.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            shown += &format!(" and {more} more");
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n}.example")).collect()
    }

    #[test]
    fn realm_without_accounts_is_told_from_one_with_accounts() {
        let all = Realms::all(vec!["b.example".to_owned(), "a.example".to_owned()]);
        assert!(!all.lacks("a.example") && !all.lacks("b.example"));
        assert!(all.lacks("relay.example") && all.lacks("A.example") && !all.lacks(""));
        assert_eq!(all.shown(), "a.example, b.example");
        assert_eq!(
            Realms::all(names(9)).shown(),
            "0.example, 1.example, 2.example, 3.example, 4.example and 4 more"
        );
    }

    #[test]
    fn realm_in_which_an_account_was_found_is_not_told_of() {
        let mut found = Realms::found_so_far();
        assert!(found.lacks("a.example"));
        found.add("a.example");
        found.add("a.example");
        assert!(!found.lacks("a.example") && found.lacks("relay.example"));
        assert_eq!(found.shown(), "a.example");
    }

    #[test]
    fn remembered_realms_are_bounded_and_nothing_is_said_once_they_are_full() {
        let mut found = Realms::found_so_far();
        names(2 * REMEMBERED_MAX).iter().for_each(|name| found.add(name));
        assert_eq!(found.with_accounts.len(), REMEMBERED_MAX);
        assert!(!found.lacks("relay.example"));
    }
}
