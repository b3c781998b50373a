//! Users as they are named on the command line, and the realm that one is meant in.

use crate::report::{Reported, report};

/// Whose users there may be.
pub(crate) struct Served {
    pub(crate) realm: Option<String>,
    pub(crate) domains: Option<Vec<String>>,
}

impl Served {
    /// The name as digests have it, and the realm.
    pub(crate) fn user(&self, text: &str) -> Result<(String, String), Reported> {
        let refused = |why: &str| Err(complain(format!("\"{text}\" {why}")));
        let (name, domain) = match text.rsplit_once('@') {
            Some((name, domain)) => (name, Some(domain)),
            None => (text, None),
        };
        let unfit = |c: char| c.is_control() || c == ':';
        if name.is_empty() || text.contains(unfit) || domain.is_some_and(str::is_empty) {
            return refused("is not a user: write it as alice@example.com");
        }
        let realm = match (&self.realm, domain) {
            (Some(realm), None) => realm.clone(),
            (Some(realm), Some(domain)) if realm.eq_ignore_ascii_case(domain) => realm.clone(),
            (Some(realm), Some(_)) => return refused(&format!("is not of the realm {realm}")),
            (None, None) => return refused("has no domain: write it as alice@example.com"),
            (None, Some(domain)) => domain.to_ascii_lowercase(),
        };
        match &self.domains {
            Some(domains) if self.realm.is_none() && !domains.contains(&realm) => {
                refused("is not of a domain in `domains`")
            }
            _ => Ok((name.to_owned(), realm)),
        }
    }
}

pub(crate) fn complain(problem: impl std::fmt::Display) -> Reported {
    report(format!("msrprelay: {problem}"))
}
