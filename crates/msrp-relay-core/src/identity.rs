//! What the peer of a connection has proven to be (RFC 4976, 6.3 and 9.2).
//!
//! The runtime checks the proof, a certificate that leads to a root the operator trusts. This module has the names that
//! it covers, and what follows from them. Invariant: names come from a verified certificate or from nowhere. A name
//! alone gives no rights: it must also be the host of the URI that the peer puts first into From-Path.

use std::sync::Arc;

use msrp_proto::uri::{Host, MsrpUri, host_matches};

/// The DNS names that the peer of a connection has proven; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenNames(Arc<[Box<str>]>);

impl ProvenNames {
    /// Names of a certificate, in any case, possibly with wildcards. `None` if there are none: the peer has proven
    /// nothing.
    pub fn new<S: Into<Box<str>>>(names: impl IntoIterator<Item = S>) -> Option<Self> {
        let names: Arc<[Box<str>]> = names.into_iter().map(Into::into).collect();
        (!names.is_empty()).then_some(Self(names))
    }

    /// The names, as in the certificate.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Whether the host of a URI is one of them. Addresses never are: a relay proves a DNS name (RFC 4976, 9.2).
    pub(crate) fn cover_host_of(&self, uri: &[u8]) -> bool {
        match MsrpUri::parse(uri) {
            Ok(uri) if matches!(uri.host(), Host::Name(_)) => {
                self.iter().any(|name| covers(name, uri.host_str()))
            }
            _ => false,
        }
    }
}

/// Whether a name, or a pattern whose `*.` stands for exactly one label, covers a host.
#[must_use]
pub fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && !parent.is_empty() && host_matches(parent, rest)
        }),
        None => host_matches(pattern, host),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;

    #[test]
    fn names_cover_hosts_in_any_case_and_wildcards_one_label() {
        let names = ProvenNames::new(["Relay.example.net", "*.example.org"]).unwrap();
        let cover = |host: &str| names.cover_host_of(format!("msrps://{host}:2855/x;tcp").as_bytes());
        assert!(cover("relay.EXAMPLE.net"));
        assert!(cover("a.example.org") && cover("A.Example.ORG"));
        for host in ["example.net", "b.relay.example.net", "example.org", "a.b.example.org", ".example.org"] {
            assert!(!cover(host), "{host}");
        }
    }

    // A certificate that says 192.0.2.1 as a DNS name proves nothing about that address.
    #[test]
    fn addresses_are_never_covered() {
        let names = ProvenNames::new(["192.0.2.1", "*.0.2.1", "[2001:db8::1]"]).unwrap();
        assert!(!names.cover_host_of(b"msrps://192.0.2.1:2855/x;tcp"));
        assert!(!names.cover_host_of(b"msrps://[2001:db8::1]:2855/x;tcp"));
        assert!(!names.cover_host_of(b"not a URI"));
    }

    #[test]
    fn without_a_name_nothing_is_proven() {
        assert_eq!(ProvenNames::new(Vec::<String>::new()), None);
    }
}
