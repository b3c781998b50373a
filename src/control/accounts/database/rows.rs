//! What the rows of a look-up mean, whichever database they come from.
//!
//! Invariant: exactly one row is meant, or no account is found.

use crate::config::{Columns, Database, SecretColumns};
use crate::control::accounts::answer::{Answer, Secret};
use crate::telemetry::{Site, Source, gated};
use msrp_proto::digest::{Algorithm, Ha1};

/// Rows asked for: enough to see that there is not exactly one.
pub(super) const ROWS_MAX: usize = 16;

/// What the columns of a row are, and which rows count.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) match_domain: bool,
    pub(super) exact_usernames: bool,
    pub(super) secret: SecretColumns,
}

impl Shape {
    pub(super) fn new(settings: &Database) -> Self {
        let Database { columns, match_domain, exact_usernames, .. } = settings;
        Self {
            match_domain: *match_domain,
            exact_usernames: *exact_usernames,
            secret: columns.secret.clone(),
        }
    }

    /// The columns to be read, in the order in which [`judge`](Self::judge) takes them.
    pub(super) fn selected<'a>(&'a self, columns: &'a Columns) -> Vec<&'a str> {
        let mut selected = vec![columns.username.as_str()];
        selected.extend(self.match_domain.then_some(columns.domain.as_str()));
        match &columns.secret {
            SecretColumns::Password(password) => selected.push(password),
            SecretColumns::Ha1 { md5, sha256 } => {
                selected.extend([md5, sha256].into_iter().flatten().map(String::as_str));
            }
        }
        selected
    }

    /// What the rows say. The database compares as its collation does: without regard to case, to accents, to spaces
    /// at the end. A digest knows none of that, and neither do the limits that are counted by user.
    pub(super) fn judge<R>(&self, rows: impl IntoIterator<Item = R>, user: &str, realm: &str) -> Answer
    where
        R: IntoIterator<Item = Option<Vec<u8>>>,
    {
        let accounts: Vec<_> = rows.into_iter().filter_map(|row| self.account(row, realm)).collect();
        let exact = |account: &&Account| account.username == user.as_bytes();
        let mut meant: Vec<_> = accounts.iter().filter(exact).collect();
        if meant.is_empty() && !self.exact_usernames {
            meant = accounts.iter().collect();
        }
        match meant.as_slice() {
            [account] => account.secret.clone().map_or(Answer::Unknown, Answer::Found),
            [] => Answer::Unknown,
            _ => {
                let (source, accounts) = (Source::of(&(user, realm)), meant.len());
                gated!(
                    warn,
                    Site::SeveralAccounts,
                    source,
                    { user, realm, accounts },
                    "Several accounts of one name: none is taken"
                );
                Answer::Unknown
            }
        }
    }

    /// `None` for a row of another domain.
    fn account(&self, row: impl IntoIterator<Item = Option<Vec<u8>>>, realm: &str) -> Option<Account> {
        let mut values = row.into_iter();
        let username = values.next().flatten()?;
        if self.match_domain && !values.next().flatten()?.eq_ignore_ascii_case(realm.as_bytes()) {
            return None;
        }
        let mut next = || values.next().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        let secret = match &self.secret {
            // An empty password is none: no client may get in without a password.
            SecretColumns::Password(_) => next().filter(|text| !text.is_empty()).map(Secret::Password),
            SecretColumns::Ha1 { md5, sha256 } => {
                let mut hash = |column: &Option<String>, algorithm| {
                    let text = column.as_ref().and_then(|_| next())?;
                    Ha1::from_hex(text.trim()).filter(|ha1| ha1.algorithm() == algorithm)
                };
                let (md5, sha256) = (hash(md5, Algorithm::Md5), hash(sha256, Algorithm::Sha256));
                (md5.is_some() || sha256.is_some()).then_some(Secret::Hashed { md5, sha256 })
            }
        };
        Some(Account { username, secret })
    }
}

/// One row.
struct Account {
    username: Vec<u8>,
    secret: Option<Secret>,
}
