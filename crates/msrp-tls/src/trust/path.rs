//! The certificates that lead from a peer's own to an authority, of all that it shows: one candidate, found without
//! checking a signature.
//!
//! TLS lets a peer send certificates in any order, twice, and ones that lead nowhere (RFC 8446, 4.4.2). webpki tries
//! every order of what it gets, which takes seconds if a dozen certificates have one name. So it gets a single line:
//! each certificate names the next one as its issuer, no two have the same name, and there are at most [`ISSUERS_MAX`]
//! of them in [`PATH_BYTES_MAX`] bytes. webpki then has no choice, and judges each of them once.
//!
//! Names of subject and issuer, key identifiers and dates choose the candidate, in favour of the shortest way to an
//! authority; among equals the peer's order counts. webpki decides who signed what. It must not know TLS.

use std::collections::{HashMap, VecDeque};

use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificate::Outline;

/// Issuers between a peer's certificate and an authority. One or two are usual, three are rare.
pub(crate) const ISSUERS_MAX: usize = 4;

/// Bytes of a whole path, the peer's own certificate included. A usual one has 2 to 5 KB.
pub(crate) const PATH_BYTES_MAX: usize = 16 * 1024;

/// Different certificates, besides its own, that are examined: the work grows with the square of their number. An
/// honest peer sends two or three, and a few that lead nowhere.
const CANDIDATES_MAX: usize = 32;

/// Certificates that are looked at, repeated and unreadable ones included: a peer can show ten thousand scraps.
const SHOWN_MAX: usize = 2 * CANDIDATES_MAX;

/// Why there is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPath {
    /// No certificate leads to an authority.
    #[error("no authority is known that its certificates lead to")]
    Unknown,
    /// Some lead to an authority, but they are too many.
    #[error(
        "its certificates lead to an authority by way of more than {ISSUERS_MAX} others, or by more than {} KiB",
        PATH_BYTES_MAX / 1024
    )]
    TooLong,
}

/// The authorities: their names, and for each name the key identifiers of the authorities that have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anchors(HashMap<Vec<u8>, Vec<Option<Vec<u8>>>>);

impl Anchors {
    /// Adds one. Ignores an unreadable one.
    pub(crate) fn add(&mut self, certificate: &CertificateDer<'_>) {
        if let Some(outline) = Outline::of(certificate) {
            let key_id = outline.key_id.map(<[u8]>::to_vec);
            self.0.entry(outline.subject.to_vec()).or_default().push(key_id);
        }
    }

    fn issued(&self, certificate: &Outline<'_>, scruples: Scruples) -> bool {
        let of_the_name = self.0.get(certificate.issuer);
        of_the_name.is_some_and(|key_ids| {
            key_ids.iter().any(|key_id| scruples.allow(key_match(certificate, key_id.as_deref())))
        })
    }
}

/// What key identifiers say of an issuer, the best first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyMatch {
    Same,
    /// One of the two has none.
    Unsaid,
    Other,
}

fn key_match(certificate: &Outline<'_>, issuer: Option<&[u8]>) -> KeyMatch {
    match (certificate.issuer_key_id, issuer) {
        (Some(wanted), Some(found)) if wanted == found => KeyMatch::Same,
        (Some(_), Some(_)) => KeyMatch::Other,
        _ => KeyMatch::Unsaid,
    }
}

/// How strict the search for a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scruples {
    /// Only key identifiers that do not disagree and certificates that are valid at this time.
    Some,
    /// Names alone: webpki will most likely refuse the result, but with a reason that can be shown.
    None,
}

impl Scruples {
    fn allow(self, found: KeyMatch) -> bool {
        self == Self::None || found != KeyMatch::Other
    }
}

/// The certificates that a peer shows, as far as they can be read.
struct Shown<'a> {
    /// The peer's own first; all different.
    certificates: Vec<(&'a CertificateDer<'a>, Outline<'a>)>,
    now: u64,
}

/// The certificates that lead from the peer's own to an authority, without the two ends.
pub(crate) fn find<'a>(
    own: &'a CertificateDer<'a>,
    others: &'a [CertificateDer<'a>],
    anchors: &Anchors,
    now: UnixTime,
) -> Result<Vec<CertificateDer<'a>>, NoPath> {
    let shown = Shown::new(own, others, now).ok_or(NoPath::Unknown)?;
    let line = shown.search(anchors, Scruples::Some).or_else(|| shown.search(anchors, Scruples::None));
    let line: Vec<_> = line.ok_or(NoPath::Unknown)?.into_iter().map(|at| shown.certificates[at].0).collect();
    let bytes = own.len() + line.iter().map(|certificate| certificate.len()).sum::<usize>();
    if line.len() > ISSUERS_MAX || bytes > PATH_BYTES_MAX {
        return Err(NoPath::TooLong);
    }
    Ok(line.into_iter().map(|certificate| CertificateDer::from(certificate.as_ref())).collect())
}

impl<'a> Shown<'a> {
    fn new(own: &'a CertificateDer<'a>, others: &'a [CertificateDer<'a>], now: UnixTime) -> Option<Self> {
        let mut certificates = vec![(own, Outline::of(own)?)];
        for other in others.iter().take(SHOWN_MAX) {
            if certificates.len() > CANDIDATES_MAX {
                break;
            }
            if certificates.iter().all(|(known, _)| *known != other)
                && let Some(outline) = Outline::of(other)
            {
                certificates.push((other, outline));
            }
        }
        Some(Self { certificates, now: now.as_secs() })
    }

    /// The shortest way from the peer's own certificate to one that an authority has issued: the positions of the
    /// certificates between.
    fn search(&self, anchors: &Anchors, scruples: Scruples) -> Option<Vec<usize>> {
        let mut below: Vec<Option<usize>> = vec![None; self.certificates.len()];
        let mut waiting = VecDeque::from([0]);
        while let Some(at) = waiting.pop_front() {
            let line = self.line(&below, at);
            if anchors.issued(&self.certificates[at].1, scruples) {
                return Some(line);
            }
            for grade in [KeyMatch::Same, KeyMatch::Unsaid, KeyMatch::Other] {
                let issuers = (1..self.certificates.len()).filter(|&above| {
                    below[above].is_none()
                        && scruples.allow(grade)
                        && self.may_issue(above, at, scruples) == Some(grade)
                        && !self.bears_a_name_of(above, &line)
                });
                for above in issuers.collect::<Vec<_>>() {
                    below[above] = Some(at);
                    waiting.push_back(above);
                }
            }
        }
        None
    }

    /// The certificates between the peer's own and this one, this one included.
    fn line(&self, below: &[Option<usize>], mut at: usize) -> Vec<usize> {
        let mut line = Vec::new();
        while let Some(lower) = below[at] {
            line.push(at);
            at = lower;
        }
        line.reverse();
        line
    }

    fn may_issue(&self, above: usize, below: usize, scruples: Scruples) -> Option<KeyMatch> {
        let (above, below) = (&self.certificates[above].1, &self.certificates[below].1);
        let valid = scruples == Scruples::None || above.valid_at(self.now);
        (above.subject == below.issuer && valid).then(|| key_match(below, above.key_id))
    }

    /// webpki would try both orders of two with one name.
    fn bears_a_name_of(&self, one: usize, line: &[usize]) -> bool {
        let subject = self.certificates[one].1.subject;
        line.iter().any(|other| self.certificates[*other].1.subject == subject)
    }
}
