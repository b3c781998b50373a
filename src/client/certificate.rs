//! What a certificate says about itself: the names it covers and when it is valid.
//!
//! For display only (`msrp probe`): whether a certificate is *trusted* is rustls's business, and nothing here takes part
//! in that decision. Reads just as much DER as lies between the start of an X.509 certificate and its validity
//! (RFC 5280, 4.1); anything unexpected yields `None`.

use futures_rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;

/// The DNS names of a certificate's subjectAltName; empty if there are none or it cannot be read.
pub fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map(|parsed| parsed.valid_dns_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// `(not before, not after)` as `YYYY-MM-DD HH:MM:SSZ`.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(String, String)> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&EXPLICIT_VERSION) {
        fields = skip(fields)?;
    }
    // Serial number, signature algorithm and issuer come first.
    for _ in 0..3 {
        fields = skip(fields)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// The content of the element at the front, which must have this tag, and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any_element(input)?;
    (found == tag).then_some((content, rest))
}

fn skip(input: &[u8]) -> Option<&[u8]> {
    any_element(input).map(|(_, _, rest)| rest)
}

/// Tag, content and rest; definite lengths of at most four octets, which is all DER certificates use.
fn any_element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A UTCTime or GeneralizedTime in readable form.
fn time(input: &[u8]) -> Option<(String, &[u8])> {
    let (tag, content, rest) = any_element(input)?;
    let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let full = match (tag, digits.len()) {
        // RFC 5280, 4.1.2.5.1: two-digit years from 50 on are of the last century.
        (UTC_TIME, 12) if digits >= "50" => format!("19{digits}"),
        (UTC_TIME, 12) => format!("20{digits}"),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |range| full.get(range);
    let date = format!("{}-{}-{}", part(0..4)?, part(4..6)?, part(6..8)?);
    Some((format!("{date} {}:{}:{}Z", part(8..10)?, part(10..12)?, part(12..14)?), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn certificate() -> CertificateDer<'static> {
        let mut parameters = rcgen::CertificateParams::new(["relay.example".to_owned(), "*.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2024, 2, 29);
        parameters.not_after = rcgen::date_time_ymd(2061, 12, 1);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn names_and_validity_are_read_in_both_time_forms() {
        let certificate = certificate();
        assert_eq!(dns_names(&certificate), ["relay.example", "*.example"]);
        let (not_before, not_after) = validity(&certificate).unwrap();
        assert_eq!(not_before, "2024-02-29 00:00:00Z");
        assert_eq!(not_after, "2061-12-01 00:00:00Z");
    }

    #[test]
    fn a_cut_certificate_is_no_certificate() {
        let whole = certificate();
        for end in 0..whole.len() {
            let cut = CertificateDer::from(whole.get(..end).unwrap());
            assert_eq!(validity(&cut), None);
            assert!(dns_names(&cut).is_empty());
        }
    }
}
