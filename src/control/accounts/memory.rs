//! The accounts in the config itself. A core has them with its config and finds one itself: the way to the control thread
//! and back costs more than the look-up.
//!
//! Invariant: at most one account for a user and domain, as [`Config`](crate::config::Config) guarantees. User names
//! are compared byte by byte, domains without case.

use std::collections::HashMap;

use super::answer::{Answer, Secret};
use super::realms::Realms;
use crate::config::MemoryUser;

/// All accounts, by domain and user.
#[derive(Debug)]
pub struct Memory {
    domains: HashMap<String, HashMap<String, Secret>>,
    realms: Realms,
}

impl Memory {
    /// Of a config that says `auth.backend: memory`, its users.
    #[must_use]
    pub fn new(users: &[MemoryUser]) -> Self {
        let mut domains: HashMap<String, HashMap<String, Secret>> = HashMap::new();
        for MemoryUser { user, domain, secret } in users {
            domains.entry(domain.clone()).or_default().insert(user.clone(), Secret::from(secret));
        }
        let realms = Realms::all(domains.keys().cloned().collect());
        Self { domains, realms }
    }

    /// Found or unknown; the realm is compared without case.
    #[must_use]
    pub fn look_up(&self, user: &str, realm: &str) -> Answer {
        let realm = realm.to_ascii_lowercase();
        self.realms.tell(&realm);
        match self.domains.get(&realm).and_then(|users| users.get(user)) {
            Some(secret) => Answer::Found(secret.clone()),
            None => Answer::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemorySecret;

    fn memory() -> Memory {
        let user = |user: &str, domain: &str, password: &str| MemoryUser {
            user: user.to_owned(),
            domain: domain.to_owned(),
            secret: MemorySecret::Password(password.to_owned()),
        };
        Memory::new(&[user("alice", "example.com", "one"), user("alice", "example.org", "two")])
    }

    fn is_found(user: &str, realm: &str, expected: &str) -> bool {
        matches!(memory().look_up(user, realm), Answer::Found(Secret::Password(password)) if password == expected)
    }

    #[test]
    fn users_of_one_name_in_two_domains_are_two_users() {
        assert!(is_found("alice", "example.com", "one"));
        assert!(is_found("alice", "EXAMPLE.org", "two"));
    }

    #[test]
    fn user_names_are_case_sensitive_and_others_are_unknown() {
        for (user, realm) in
            [("Alice", "example.com"), ("bob", "example.com"), ("alice", "example.net"), ("", "")]
        {
            assert!(matches!(memory().look_up(user, realm), Answer::Unknown), "{user}@{realm}");
        }
    }
}
