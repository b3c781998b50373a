//! The parameter lists of digest headers: `name=value` separated by commas (RFC 4976 §9, RFC 7616 §3).
//!
//! Lenient about quotes, white space and unknown parameters, because real clients differ in all three. Strict about two
//! things: a known parameter stands once, and a quoted-string ends.

use core::fmt::{self, Write as _};
use core::str;
use std::borrow::Cow;

use super::algorithm::Algorithm;
use crate::uri::is_token;

/// Why the value of a digest header cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthorizationError {
    /// Not a list of parameters, one missing or twice: answer 400.
    #[error("malformed digest parameters")]
    Malformed,
    /// Another scheme, algorithm or quality of protection than offered: answer 401.
    #[error("unsupported scheme, algorithm or quality of protection")]
    Unsupported,
}

/// A quoted-string.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            if matches!(character, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(character)?;
        }
        f.write_str("\"")
    }
}

/// The parameters of a digest header. Known ones stand once; others are dropped.
pub(super) struct Parameters<'a> {
    values: [Option<Cow<'a, str>>; NAMES.len()],
}

const NAMES: [&str; 12] = [
    "username",
    "realm",
    "nonce",
    "response",
    "cnonce",
    "nc",
    "qop",
    "opaque",
    "algorithm",
    "stale",
    "nextnonce",
    "rspauth",
];

impl<'a> Parameters<'a> {
    /// The parameters after the scheme, which must be `Digest`.
    pub(super) fn of_digest(value: &'a [u8]) -> Result<Self, AuthorizationError> {
        let value = str::from_utf8(value).map_err(|_| AuthorizationError::Malformed)?;
        let (scheme, list) =
            value.trim_start().split_once([' ', '\t']).ok_or(AuthorizationError::Malformed)?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return Err(AuthorizationError::Unsupported);
        }
        Self::parse(list.as_bytes())
    }

    pub(super) fn parse(list: &'a [u8]) -> Result<Self, AuthorizationError> {
        let mut rest = str::from_utf8(list).map_err(|_| AuthorizationError::Malformed)?;
        let mut parameters = Self { values: [const { None }; NAMES.len()] };
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Ok(parameters);
            }
            let (name, behind) = rest.split_once('=').ok_or(AuthorizationError::Malformed)?;
            let (value, behind) = split_value(behind.trim_start_matches([' ', '\t']))?;
            rest = behind.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(AuthorizationError::Malformed);
            }
            parameters.keep(name.trim_end_matches([' ', '\t']), value)?;
        }
    }

    fn keep(&mut self, name: &str, value: Cow<'a, str>) -> Result<(), AuthorizationError> {
        if !is_token(name.as_bytes()) {
            return Err(AuthorizationError::Malformed);
        }
        match self.slot(name) {
            Some(Some(_)) => return Err(AuthorizationError::Malformed),
            Some(slot) => *slot = Some(value),
            None => {}
        }
        Ok(())
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        let at = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        self.values.get_mut(at)
    }

    pub(super) fn optional(&mut self, name: &str) -> Option<Cow<'a, str>> {
        self.slot(name).and_then(Option::take)
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Cow<'a, str>, AuthorizationError> {
        self.optional(name).ok_or(AuthorizationError::Malformed)
    }

    pub(super) fn algorithm(&mut self) -> Result<Algorithm, AuthorizationError> {
        match self.optional("algorithm") {
            None => Ok(Algorithm::Md5),
            Some(name) => Algorithm::of(&name).ok_or(AuthorizationError::Unsupported),
        }
    }
}

/// A quoted-string or a bare value from the front, and the text after it.
fn split_value(text: &str) -> Result<(Cow<'_, str>, &str), AuthorizationError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, behind) = text.split_at_checked(end).ok_or(AuthorizationError::Malformed)?;
        // Clients send many values bare; a quote inside one is garbage.
        return if value.is_empty() || value.contains('"') {
            Err(AuthorizationError::Malformed)
        } else {
            Ok((Cow::Borrowed(value), behind))
        };
    };
    let mut unescaped = String::new();
    let mut rest = quoted;
    loop {
        let stop = rest.find(['"', '\\']).ok_or(AuthorizationError::Malformed)?;
        let (plain, behind) = rest.split_at_checked(stop).ok_or(AuthorizationError::Malformed)?;
        if let Some(behind) = behind.strip_prefix('"') {
            let value =
                if unescaped.is_empty() { Cow::Borrowed(plain) } else { Cow::Owned(unescaped + plain) };
            return Ok((value, behind));
        }
        let mut escaped = behind.chars();
        escaped.next();
        unescaped.push_str(plain);
        unescaped.push(escaped.next().ok_or(AuthorizationError::Malformed)?);
        rest = escaped.as_str();
    }
}
