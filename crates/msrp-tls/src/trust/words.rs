//! What is wrong with TLS, in words, and what to do about it.
//!
//! rustls and webpki describe errors for programmers, at any length: all names of a certificate, all accepted
//! alternatives. Here an error becomes a [`TlsFault`]: bounded, [shown](text), with the remedy of the asking program.

use std::fmt;
use std::io;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

use super::path::NoPath;
use untrusted::text;

/// Names of one certificate that one message shows; it only counts the others.
pub const NAMES_SHOWN_MAX: usize = 3;

/// Characters of one name that are shown: longer than any host that an operator has to recognise.
const NAME_CHARACTERS_MAX: usize = 80;

/// Characters of rustls' own text that are shown if there are no better words.
const DETAIL_CHARACTERS_MAX: usize = 120;

/// Which program tells it: the remedies differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The client tool: remedies are its options.
    Msrp,
    /// The relay: remedies are keys of its config.
    Relay,
}

/// What is wrong with TLS on a connection. Displays as a sentence about the other side, without a full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// No trusted authority has signed its certificate.
    UnknownIssuer,
    /// Its certificate names a trusted authority, which has not signed it.
    ForgedIssuer,
    /// Its certificate is for other names.
    AnotherName {
        /// The name that was asked for.
        wanted: String,
        /// The names that it has, ready to show; empty if it has none.
        names: String,
    },
    /// Its certificate has expired, or that of one of its issuers.
    Expired(Option<String>),
    /// Its certificate, or that of one of its issuers, is not valid yet.
    NotYetValid(Option<String>),
    /// Its certificate is not for servers, or not for clients.
    Purpose,
    /// Its certificate is that of an authority.
    Authority,
    /// It has been revoked.
    Revoked,
    /// Its certificate has another fault.
    Unusable(String),
    /// It shows no certificate.
    NoCertificate,
    /// It does not speak TLS.
    NotTls,
    /// It ended the connection instead of answering, or does not answer.
    Silent(String),
    /// It speaks no version of TLS that we speak.
    Version,
    /// We have the version in common, and nothing else.
    NothingInCommon,
    /// It does not accept our certificate.
    OursRefused(String),
    /// It wants a certificate of ours.
    OursWanted,
    /// It has no certificate for the name that we ask for.
    NameUnknown,
    /// It has ended TLS, and says why.
    Alert(String),
    /// It breaks the protocol, or something between us does.
    Broken(String),
    /// Our own key does not belong to our certificate.
    KeyMismatch,
    /// The fault is on this side.
    Here(String),
}

impl TlsFault {
    /// What an I/O error of a handshake means.
    #[must_use]
    pub fn of_handshake(error: &io::Error) -> Self {
        if let Some(inner) = rustls_error(error) {
            return Self::from(inner);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                Self::Silent("it has closed the connection instead of shaking hands".to_owned())
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                Self::Silent("it has reset the connection instead of shaking hands".to_owned())
            }
            _ => Self::Silent(text::shown_within(&error.to_string(), DETAIL_CHARACTERS_MAX).into_owned()),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self, asker: Asker) -> &'static str {
        match asker {
            Asker::Msrp => self.remedy_of_msrp(),
            Asker::Relay => self.remedy_of_relay(),
        }
    }

    /// What is wrong and what to do, for this asker.
    #[must_use]
    pub fn explained(&self, asker: Asker) -> String {
        match self.remedy(asker) {
            "" => self.to_string(),
            remedy => format!("{self} ({remedy})"),
        }
    }

    fn remedy_of_msrp(&self) -> &'static str {
        match self {
            Self::UnknownIssuer | Self::ForgedIssuer => {
                "give its issuer, or a self-signed certificate itself, with --ca FILE"
            }
            Self::AnotherName { names, .. } if names.is_empty() => {
                "its operator must issue one with a subjectAltName"
            }
            Self::AnotherName { .. } | Self::NameUnknown => {
                "if that is the right server, say the name with --server-name NAME"
            }
            Self::Authority => "if it is self-signed, give exactly it with --ca FILE",
            Self::NotTls | Self::Silent(_) => "if that port speaks no TLS: --plain",
            other => other.remedy_of_both(),
        }
    }

    fn remedy_of_relay(&self) -> &'static str {
        match self {
            Self::UnknownIssuer | Self::ForgedIssuer => {
                "name its issuer, or a self-signed certificate itself, in outbound.ca"
            }
            Self::AnotherName { .. } | Self::NameUnknown => {
                "its operator must mend its host name or its certificate"
            }
            Self::Authority => "if it is self-signed, name exactly it in outbound.ca",
            Self::NotTls | Self::Silent(_) => "that port may speak no TLS, or no MSRP",
            other => other.remedy_of_both(),
        }
    }

    fn remedy_of_both(&self) -> &'static str {
        match self {
            Self::Expired(_) => "its operator must renew it, unless the clock here is wrong",
            Self::NotYetValid(_) => "the clock here or that of its issuer is wrong",
            Self::Purpose => "its operator must issue one with serverAuth in its extended key usage",
            Self::Unusable(_) | Self::Revoked | Self::NoCertificate => {
                "its operator must issue an X.509 v3 certificate, ECDSA or RSA of 2048 bits or more"
            }
            Self::Version => "TLS 1.2 or 1.3 is needed",
            Self::NothingInCommon => "it needs AES-GCM or ChaCha20-Poly1305 with ECDHE",
            Self::OursRefused(_) => "its operator must trust the issuer of ours, and ours must be valid",
            Self::OursWanted => "it takes only clients with a certificate",
            Self::Broken(_) => "it, or something between, is no proper TLS",
            _ => "",
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dated = |f: &mut fmt::Formatter<'_>, what: &str, when: &Option<String>| match when {
            Some(when) => write!(f, "its certificate, or an issuer's, {what} {when}"),
            None => write!(f, "its certificate, or an issuer's, {what} a day that makes no sense"),
        };
        match self {
            Self::UnknownIssuer => {
                f.write_str("its certificate is signed by no authority that is trusted here")
            }
            Self::ForgedIssuer => f.write_str(
                "its certificate names an authority that is trusted here, which has not signed it",
            ),
            Self::AnotherName { wanted, names } if names.is_empty() => {
                write!(
                    f,
                    "its certificate is for no name (a common name does not count), so not for {wanted}"
                )
            }
            Self::AnotherName { wanted, names } => {
                write!(f, "its certificate is for another name: for {names}, not for {wanted}")
            }
            Self::Expired(when) => dated(f, "has expired on", when),
            Self::NotYetValid(when) => dated(f, "is not valid before", when),
            Self::Purpose => f.write_str("its certificate is not made for this use"),
            Self::Authority => f.write_str("its certificate is that of an authority, not that of a server"),
            Self::Revoked => f.write_str("its certificate is revoked"),
            Self::Unusable(why) => write!(f, "its certificate cannot be used: {why}"),
            Self::NoCertificate => f.write_str("it shows no certificate"),
            Self::NotTls => f.write_str("what it sends is not TLS"),
            Self::Silent(how) => f.write_str(how),
            Self::Version => f.write_str("it speaks no version of TLS that is spoken here"),
            Self::NothingInCommon => {
                f.write_str("it has no cipher suite, group or signature in common with us")
            }
            Self::OursRefused(alert) => write!(f, "it refuses our certificate: {alert}"),
            Self::OursWanted => f.write_str("it wants a certificate, and there is none to show"),
            Self::NameUnknown => f.write_str("it has no certificate for the name that it is asked for"),
            Self::Alert(alert) => write!(f, "it has ended TLS: {alert}"),
            Self::Broken(how) => write!(f, "it breaks the rules of TLS: {how}"),
            Self::KeyMismatch => f.write_str("the key does not belong to the certificate"),
            Self::Here(what) => write!(f, "TLS does not work here: {what}"),
        }
    }
}

impl From<&Error> for TlsFault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => Self::from(why),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Self::Version,
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::AlertReceived(alert) => of_alert(*alert),
            Error::InvalidMessage(how) => Self::Broken(detail(how)),
            Error::PeerMisbehaved(how) => Self::Broken(detail(how)),
            Error::InappropriateMessage { got_type, .. } => Self::Broken(unexpected(got_type)),
            Error::InappropriateHandshakeMessage { got_type, .. } => Self::Broken(unexpected(got_type)),
            Error::DecryptError => Self::Broken("a record that cannot be decrypted".to_owned()),
            Error::PeerSentOversizedRecord => Self::Broken("a record that is too long".to_owned()),
            Error::NoApplicationProtocol => Self::NothingInCommon,
            Error::FailedToGetCurrentTime => Self::Here("the clock cannot be read".to_owned()),
            Error::FailedToGetRandomBytes => Self::Here("there are no random numbers".to_owned()),
            Error::InconsistentKeys(_) => Self::KeyMismatch,
            other => Self::Here(text::shown_within(&other.to_string(), DETAIL_CHARACTERS_MAX).into_owned()),
        }
    }
}

impl From<&CertificateError> for TlsFault {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::BadSignature => Self::ForgedIssuer,
            CertificateError::NotValidForName => Self::AnotherName {
                wanted: "the one that was asked for".to_owned(),
                names: "others".to_owned(),
            },
            CertificateError::NotValidForNameContext { expected, presented } => {
                another_name(expected, presented)
            }
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired(Some(day(*not_after))),
            CertificateError::NotValidYet => Self::NotYetValid(None),
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid(Some(day(*not_before)))
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::Purpose
            }
            CertificateError::Revoked => Self::Revoked,
            CertificateError::BadEncoding => Self::Unusable("it cannot be read".to_owned()),
            CertificateError::UnhandledCriticalExtension => {
                Self::Unusable("it has an extension that is critical and unknown".to_owned())
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                unsupported_signature()
            }
            CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<webpki::Error>() {
                Some(error) => Self::from(error),
                None if inner.is::<NoPath>() => Self::Unusable(inner.to_string()),
                None => {
                    Self::Unusable(text::shown_within(&inner.to_string(), DETAIL_CHARACTERS_MAX).into_owned())
                }
            },
            other => Self::Unusable(detail(other)),
        }
    }
}

/// For the verdict on callers, which webpki itself gives.
impl From<&webpki::Error> for TlsFault {
    fn from(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        let unusable = |why: &str| Self::Unusable(why.to_owned());
        match error {
            E::UnknownIssuer => Self::UnknownIssuer,
            E::InvalidSignatureForPublicKey => Self::ForgedIssuer,
            E::CertExpired { not_after, .. } => Self::Expired(Some(day(*not_after))),
            E::CertNotValidYet { not_before, .. } => Self::NotYetValid(Some(day(*not_before))),
            E::InvalidCertValidity => Self::Expired(None),
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::Purpose,
            E::CaUsedAsEndEntity => Self::Authority,
            E::CertRevoked => Self::Revoked,
            E::CertNotValidForName(context) => another_name(&context.expected, &context.presented),
            E::EndEntityUsedAsCa => unusable("what has signed it is no authority"),
            E::NameConstraintViolation => unusable("what has signed it may not do so for these names"),
            E::PathLenConstraintViolated => {
                unusable("what has signed it may not be so far below its authority")
            }
            E::UnsupportedCertVersion => unusable("it is not of version 3"),
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | E::SignatureAlgorithmMismatch => unsupported_signature(),
            other => Self::Unusable(detail(other)),
        }
    }
}

fn unsupported_signature() -> TlsFault {
    TlsFault::Unusable(
        "it is signed in a way that is not accepted, an old one or with too short a key".to_owned(),
    )
}

fn another_name(expected: &ServerName<'_>, presented: &[String]) -> TlsFault {
    let wanted = text::shown_within(&expected.to_str(), NAME_CHARACTERS_MAX).into_owned();
    // webpki writes them like this: DnsName("relay.example.com"), IpAddress(192.0.2.1).
    let bare = |shown: &'_ String| {
        let (_, inner) = shown.split_once('(').unwrap_or(("", shown));
        inner.trim_end_matches(')').trim_matches('"').to_owned()
    };
    let names = presented.iter().map(bare);
    TlsFault::AnotherName { wanted, names: shown_names(names) }
}

fn of_alert(alert: AlertDescription) -> TlsFault {
    use AlertDescription as A;
    let refused = |how: &str| TlsFault::OursRefused(how.to_owned());
    match alert {
        A::UnknownCA => refused("it does not know its issuer"),
        A::CertificateExpired => refused("it has expired"),
        A::CertificateRevoked => refused("it is revoked"),
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            TlsFault::OursRefused(format!("it says {}", detail(&alert)))
        }
        A::CertificateRequired | A::NoCertificate => TlsFault::OursWanted,
        A::UnrecognisedName => TlsFault::NameUnknown,
        A::ProtocolVersion => TlsFault::Version,
        A::HandshakeFailure | A::InsufficientSecurity => TlsFault::NothingInCommon,
        other => TlsFault::Alert(format!("it says {}", detail(&other))),
    }
}

/// An I/O error of a connection, in words: what is wrong with TLS if it is that, else what the kernel says.
#[must_use]
pub fn io_words(error: &io::Error, asker: Asker) -> String {
    match rustls_error(error) {
        Some(inner) => TlsFault::from(inner).explained(asker),
        None => text::of_io(error),
    }
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref::<Error>()
}

/// The first names of a certificate, and how many there are besides.
#[must_use]
pub fn shown_names<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> String {
    let mut names = names.into_iter();
    let first: Vec<_> = names
        .by_ref()
        .take(NAMES_SHOWN_MAX)
        .map(|name| text::shown_within(name.as_ref(), NAME_CHARACTERS_MAX).into_owned())
        .collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn detail(what: &impl fmt::Debug) -> String {
    text::shown_within(&format!("{what:?}"), DETAIL_CHARACTERS_MAX).into_owned()
}

fn unexpected(message: &impl fmt::Debug) -> String {
    format!("{} is not expected now", detail(message))
}

/// The day of a time, as people write it: `2026-11-28`.
fn day(time: UnixTime) -> String {
    let days = i64::try_from(time.as_secs() / 86_400).unwrap_or(i64::MAX / 400);
    // Days and years that begin in March of the year 0 have their leap day at the end.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + later)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests;
