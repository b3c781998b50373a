//! What a certificate states: names, dates, its issuer.
//!
//! Nothing here is proof: webpki decides whether a certificate is *trusted*. What is read here is shown to people, and
//! orders certificates before webpki judges them ([`super::path`]). Reads only as much DER as that takes (RFC 5280, 4.1
//! and 4.2.1); anything unexpected yields nothing. (webpki lists no wildcards, and no key identifiers.)

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BMP_STRING: u8 = 0x1e;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;
const EXPLICIT_EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
const ISSUER_KEY_ID: u8 = 0x80;
/// Parts of one name that are read: more are of no use to people.
const NAME_PARTS_MAX: usize = 8;
/// 2.5.29.14
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
/// 2.5.29.35
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// 2.5.29.19
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a certificate covers: the DNS names, wildcards included, and the addresses of its subjectAltName.
pub fn covered_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = alternative_names(certificate).unwrap_or_default();
    while let Some((tag, content, behind)) = any_element(rest) {
        match tag {
            DNS_NAME => found.extend(std::str::from_utf8(content).ok().map(str::to_owned)),
            IP_ADDRESS => found.extend(address(content).map(|address| address.to_string())),
            _ => {}
        }
        rest = behind;
    }
    found
}

/// `(subject, issuer)`, each as `CN=relay.example.com, O=Example`; what is in them is foreign text.
pub fn distinguished_names(certificate: &CertificateDer<'_>) -> Option<(String, String)> {
    let outline = Outline::of(certificate)?;
    Some((distinguished_name(outline.subject), distinguished_name(outline.issuer)))
}

/// The parts of a name that people know it by, in their order; empty if there is none of them.
fn distinguished_name(mut rest: &[u8]) -> String {
    let mut parts = Vec::new();
    while let Some((SET, attributes, behind)) = any_element(rest).filter(|_| parts.len() < NAME_PARTS_MAX) {
        parts.extend(name_part(attributes));
        rest = behind;
    }
    parts.join(", ")
}

fn name_part(attributes: &[u8]) -> Option<String> {
    let (attribute, _) = element(attributes, SEQUENCE)?;
    let (kind, value) = element(attribute, OBJECT_IDENTIFIER)?;
    let kind = match kind {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x0a] => "O",
        [0x55, 0x04, 0x0b] => "OU",
        _ => return None,
    };
    let (tag, value, _) = any_element(value)?;
    let value = match tag {
        BMP_STRING => {
            let units: Vec<_> = value.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(value).into_owned(),
    };
    Some(format!("{kind}={value}"))
}

/// `(not before, not after)` as `YYYY-MM-DD HH:MM:SSZ`.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(String, String)> {
    let (validity, _) = element(from_validity(certificate)?, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// The parts of a certificate that tell its place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline<'a> {
    /// The content of its subject's name.
    pub(crate) subject: &'a [u8],
    /// The content of its issuer's name.
    pub(crate) issuer: &'a [u8],
    /// The identifier of its key.
    pub(crate) key_id: Option<&'a [u8]>,
    /// The identifier of the key that has signed it.
    pub(crate) issuer_key_id: Option<&'a [u8]>,
    /// In seconds since 1970, as all of these times.
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl<'a> Outline<'a> {
    pub(crate) fn of(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let fields = from_issuer(certificate)?;
        let (issuer, fields) = element(fields, SEQUENCE)?;
        let (dates, fields) = element(fields, SEQUENCE)?;
        let (subject, _) = element(fields, SEQUENCE)?;
        let (not_before, dates) = time(dates)?;
        let (not_after, _) = time(dates)?;
        let seconds = |time: &str| Some(u64::try_from(epoch_seconds(time)?).unwrap_or(0));
        let key_id = extension(certificate, SUBJECT_KEY_ID).and_then(|value| element(value, OCTET_STRING));
        let issuer_key_id = extension(certificate, AUTHORITY_KEY_ID)
            .and_then(|value| element(value, SEQUENCE))
            .and_then(|(parts, _)| element(parts, ISSUER_KEY_ID));
        Some(Self {
            subject,
            issuer,
            key_id: key_id.map(|(id, _)| id),
            issuer_key_id: issuer_key_id.map(|(id, _)| id),
            not_before: seconds(&not_before)?,
            not_after: seconds(&not_after)?,
        })
    }

    /// Whether it states that it is valid at this time.
    pub(crate) const fn valid_at(&self, seconds: u64) -> bool {
        self.not_before <= seconds && seconds <= self.not_after
    }
}

/// Whether a certificate states that it may sign others (RFC 5280, 4.2.1.9). One of version 1 cannot say so, and is
/// good for nothing else.
pub(crate) fn may_sign(certificate: &CertificateDer<'_>) -> bool {
    if version(certificate).is_none() {
        return true;
    }
    let constraints = extension(certificate, BASIC_CONSTRAINTS).and_then(|value| element(value, SEQUENCE));
    let is_ca = constraints.and_then(|(constraints, _)| element(constraints, BOOLEAN));
    is_ca.is_some_and(|(value, _)| value == [0xff])
}

/// The version field of a certificate; version 1 has none.
fn version(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (fields, _) = element(certificate, SEQUENCE)?;
    element(fields, EXPLICIT_VERSION).map(|(version, _)| version)
}

/// Seconds since 1970 of a time as [`validity`] writes it.
pub fn epoch_seconds(time: &str) -> Option<i64> {
    let number = |range| time.get(range).and_then(|digits: &str| digits.parse::<i64>().ok());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hours, minutes, seconds) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

/// The fields of a certificate from its issuer on.
fn from_issuer(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&EXPLICIT_VERSION) {
        fields = skip(fields)?;
    }
    // Serial number and signature algorithm come first.
    skip(skip(fields)?)
}

/// The fields of a certificate from its validity on.
fn from_validity(certificate: &[u8]) -> Option<&[u8]> {
    skip(from_issuer(certificate)?)
}

/// The list of names in the subjectAltName extension.
fn alternative_names(certificate: &[u8]) -> Option<&[u8]> {
    let (names, _) = element(extension(certificate, SUBJECT_ALT_NAME)?, SEQUENCE)?;
    Some(names)
}

/// The value of the extension with this identifier.
fn extension<'a>(certificate: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut fields = from_validity(certificate)?;
    let (extensions, _) = loop {
        match any_element(fields)? {
            (EXPLICIT_EXTENSIONS, content, _) => break element(content, SEQUENCE)?,
            (_, _, behind) => fields = behind,
        }
    };
    let mut rest = extensions;
    loop {
        let (extension, behind) = element(rest, SEQUENCE)?;
        let (identifier, mut value) = element(extension, OBJECT_IDENTIFIER)?;
        if identifier == wanted {
            if value.first() == Some(&BOOLEAN) {
                value = skip(value)?;
            }
            let (value, _) = element(value, OCTET_STRING)?;
            return Some(value);
        }
        rest = behind;
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

/// The content of the element at the front, which must have this tag, and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any_element(input)?;
    (found == tag).then_some((content, rest))
}

fn skip(input: &[u8]) -> Option<&[u8]> {
    any_element(input).map(|(_, _, rest)| rest)
}

/// Tag, content and rest; definite lengths of at most four bytes, which is all DER certificates use.
fn any_element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
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
        let mut parameters = rcgen::CertificateParams::new(
            ["relay.example", "*.example", "192.0.2.7", "2001:db8::7"].map(str::to_owned),
        )
        .unwrap();
        parameters.not_before = rcgen::date_time_ymd(2024, 2, 29);
        parameters.not_after = rcgen::date_time_ymd(2061, 12, 1);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn names_and_validity_are_read_in_both_time_forms() {
        let certificate = certificate();
        assert_eq!(covered_names(&certificate), ["relay.example", "*.example", "192.0.2.7", "2001:db8::7"]);
        let (not_before, not_after) = validity(&certificate).unwrap();
        assert_eq!(not_before, "2024-02-29 00:00:00Z");
        assert_eq!(not_after, "2061-12-01 00:00:00Z");
    }

    #[test]
    fn outline_has_names_key_identifiers_and_dates() {
        let ca = || {
            let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            parameters.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(b"the key".to_vec());
            parameters.distinguished_name.push(rcgen::DnType::CommonName, "An authority");
            parameters
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let above = ca().self_signed(&key).unwrap().der().clone();
        let issuer = rcgen::Issuer::new(ca(), key);
        let mut parameters = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
        parameters.use_authority_key_identifier_extension = true;
        parameters.not_before = rcgen::date_time_ymd(1969, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2061, 12, 1);
        let below = parameters.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();

        let (above, below) = (Outline::of(&above).unwrap(), Outline::of(below.der()).unwrap());
        assert_eq!(above.subject, above.issuer);
        assert_eq!(above.subject, below.issuer);
        assert_ne!(below.subject, below.issuer);
        assert_eq!((above.key_id, above.issuer_key_id), (Some(&b"the key"[..]), None));
        assert_eq!((below.key_id, below.issuer_key_id), (None, Some(&b"the key"[..])));
        assert_eq!((below.not_before, below.not_after), (0, 2_900_620_800));
        assert!(below.valid_at(0) && below.valid_at(2_900_620_800) && !below.valid_at(2_900_620_801));
    }

    #[test]
    fn only_what_says_so_may_sign() {
        use rcgen::{BasicConstraints, IsCa};
        for (is_ca, expected) in [
            (IsCa::NoCa, false),
            (IsCa::ExplicitNoCa, false),
            (IsCa::Ca(BasicConstraints::Unconstrained), true),
            (IsCa::Ca(BasicConstraints::Constrained(0)), true),
        ] {
            let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = is_ca;
            let made = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(may_sign(made.der()), expected);
        }
    }

    #[test]
    fn names_of_subject_and_issuer_are_read() {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Grüße");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "relay.example");
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone();
        let (subject, issuer) = distinguished_names(&certificate).unwrap();
        assert_eq!(
            (subject.as_str(), issuer.as_str()),
            ("O=Grüße, CN=relay.example", "O=Grüße, CN=relay.example")
        );
        assert_eq!(distinguished_names(&CertificateDer::from(vec![0x30, 0x80])), None);
    }

    #[test]
    fn written_times_are_counted_from_1970() {
        for (time, seconds) in [
            ("1970-01-01 00:00:00Z", 0),
            ("1999-12-31 23:59:59Z", 946_684_799),
            ("2000-02-29 12:00:00Z", 951_825_600),
            ("2024-03-01 00:00:00Z", 1_709_251_200),
            ("2061-12-01 00:00:00Z", 2_900_620_800),
        ] {
            assert_eq!(epoch_seconds(time), Some(seconds), "{time}");
        }
        assert_eq!(epoch_seconds("soon"), None);
    }

    #[test]
    fn a_cut_certificate_is_no_certificate() {
        let whole = certificate();
        for end in 0..whole.len() {
            let cut = CertificateDer::from(whole.get(..end).unwrap());
            assert_eq!(validity(&cut), None);
            assert!(covered_names(&cut).is_empty());
            assert_eq!(Outline::of(&cut), None);
        }
    }
}
