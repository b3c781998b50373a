use std::sync::Arc;
use std::time::Duration;

use rustls::{ContentType, HandshakeType, InconsistentKeys, PeerMisbehaved};

use super::*;

fn told(error: &Error, asker: Asker) -> String {
    TlsFault::from(error).explained(asker)
}

fn certificate(error: CertificateError) -> Error {
    Error::InvalidCertificate(error)
}

fn of_webpki(error: webpki::Error) -> Error {
    certificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn for_names(presented: &[&str]) -> Error {
    certificate(CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("relay.example.com").unwrap(),
        presented: presented.iter().map(|name| (*name).to_owned()).collect(),
    })
}

/// Every error that an operator or a user can meet, with a word that each of them is told.
fn met() -> Vec<(Error, &'static str, &'static str, &'static str)> {
    let expired = CertificateError::ExpiredContext { time: at(0), not_after: at(1_709_251_200) };
    let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(2_900_620_800) };
    let alert = |alert| Error::AlertReceived(alert);
    let purpose = CertificateError::InvalidPurpose;
    let (renew, mend) = ("must renew it", "its operator must mend its host name");
    let (trust_it, issue) =
        ("its operator must trust the issuer of ours", "must issue an X.509 v3 certificate");
    vec![
        (certificate(CertificateError::UnknownIssuer), "signed by no authority", "--ca FILE", "outbound.ca"),
        (certificate(CertificateError::BadSignature), "has not signed it", "--ca FILE", "outbound.ca"),
        (
            for_names(&["DnsName(\"localhost\")"]),
            "for localhost, not for relay.example.com",
            "--server-name",
            mend,
        ),
        (for_names(&["IpAddress(192.0.2.1)"]), "for 192.0.2.1, not for", "--server-name", mend),
        (for_names(&[]), "for no name (a common name does not count)", "subjectAltName", mend),
        (certificate(CertificateError::NotValidForName), "for another name", "--server-name", mend),
        (certificate(expired), "has expired on 2024-03-01", renew, renew),
        (certificate(CertificateError::Expired), "has expired", renew, renew),
        (certificate(early), "is not valid before 2061-12-01", "the clock here", "the clock here"),
        (
            certificate(CertificateError::NotValidYet),
            "is not valid before",
            "the clock here",
            "the clock here",
        ),
        (certificate(purpose), "not made for this use", "serverAuth", "serverAuth"),
        (certificate(CertificateError::Revoked), "is revoked", issue, issue),
        (certificate(CertificateError::BadEncoding), "cannot be read", issue, issue),
        (certificate(CertificateError::UnhandledCriticalExtension), "critical and unknown", issue, issue),
        (
            of_webpki(webpki::Error::CaUsedAsEndEntity),
            "that of an authority",
            "exactly it with --ca",
            "outbound.ca",
        ),
        (of_webpki(webpki::Error::EndEntityUsedAsCa), "has signed it is no authority", issue, issue),
        (of_webpki(webpki::Error::NameConstraintViolation), "for these names", issue, issue),
        (of_webpki(webpki::Error::PathLenConstraintViolated), "so far below", issue, issue),
        (of_webpki(webpki::Error::UnsupportedCertVersion), "not of version 3", issue, issue),
        (of_webpki(webpki::Error::MaximumSignatureChecksExceeded), "MaximumSignature", issue, issue),
        (
            certificate(CertificateError::Other(OtherError(Arc::new(NoPath::TooLong)))),
            "more than 4 others",
            issue,
            issue,
        ),
        (Error::NoCertificatesPresented, "shows no certificate", issue, issue),
        (
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            "is not TLS",
            "--plain",
            "no TLS, or no MSRP",
        ),
        (
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion),
            "is not TLS",
            "--plain",
            "no TLS, or no MSRP",
        ),
        (
            Error::InvalidMessage(InvalidMessage::MessageTooShort),
            "breaks the rules",
            "no proper TLS",
            "no proper TLS",
        ),
        (
            Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments),
            "breaks the rules",
            "no proper",
            "no proper",
        ),
        (Error::DecryptError, "cannot be decrypted", "no proper TLS", "no proper TLS"),
        (Error::PeerSentOversizedRecord, "too long", "no proper TLS", "no proper TLS"),
        (
            Error::InappropriateMessage { expect_types: Vec::new(), got_type: ContentType::ApplicationData },
            "ApplicationData is not expected",
            "no proper TLS",
            "no proper TLS",
        ),
        (
            Error::InappropriateHandshakeMessage {
                expect_types: Vec::new(),
                got_type: HandshakeType::Finished,
            },
            "Finished is not expected",
            "no proper TLS",
            "no proper TLS",
        ),
        (
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
            "no version of TLS",
            "1.2 or 1.3",
            "1.2 or 1.3",
        ),
        (
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            "in common",
            "AES-GCM",
            "AES-GCM",
        ),
        (Error::NoApplicationProtocol, "in common", "AES-GCM", "AES-GCM"),
        (alert(AlertDescription::ProtocolVersion), "no version of TLS", "1.2 or 1.3", "1.2 or 1.3"),
        (alert(AlertDescription::HandshakeFailure), "in common", "AES-GCM", "AES-GCM"),
        (alert(AlertDescription::UnknownCA), "refuses our certificate: it does not know", trust_it, trust_it),
        (alert(AlertDescription::BadCertificate), "refuses our certificate", trust_it, trust_it),
        (alert(AlertDescription::CertificateExpired), "certificate: it has expired", trust_it, trust_it),
        (alert(AlertDescription::CertificateRequired), "wants a certificate", "only clients", "only clients"),
        (alert(AlertDescription::UnrecognisedName), "no certificate for the name", "--server-name", mend),
        (alert(AlertDescription::InternalError), "it has ended TLS: it says InternalError", "", ""),
        (Error::InconsistentKeys(InconsistentKeys::KeyMismatch), "the key does not belong", "", ""),
        (Error::FailedToGetCurrentTime, "does not work here", "", ""),
        (Error::FailedToGetRandomBytes, "does not work here", "", ""),
        (Error::General("x".repeat(5000)), "does not work here", "", ""),
    ]
}

#[test]
fn each_error_of_tls_is_told_in_words_with_its_remedy() {
    for (error, what, of_msrp, of_relay) in met() {
        for (asker, remedy) in [(Asker::Msrp, of_msrp), (Asker::Relay, of_relay)] {
            let told = told(&error, asker);
            assert!(told.contains(what) && told.contains(remedy), "{error:?} {asker:?}: {told}");
            assert_eq!(told.ends_with(')'), !remedy.is_empty(), "{told}");
            assert!(told.len() <= 400, "{}: {told}", told.len());
        }
    }
}

// What rustls writes for programmers: DnsName("localhost"), InvalidContentType, UnknownIssuer.
#[test]
fn no_common_error_is_told_in_the_words_of_a_library() {
    for error in [
        for_names(&["DnsName(\"localhost\")"]),
        certificate(CertificateError::UnknownIssuer),
        of_webpki(webpki::Error::CaUsedAsEndEntity),
        Error::InvalidMessage(InvalidMessage::InvalidContentType),
        Error::AlertReceived(AlertDescription::UnknownCA),
    ] {
        for asker in [Asker::Msrp, Asker::Relay] {
            let told = told(&error, asker);
            for word in ["DnsName", "UnknownIssuer", "CaUsedAs", "ContentType", "UnknownCA", "invalid peer"] {
                assert!(!told.contains(word), "{told}");
            }
        }
    }
}

#[test]
fn many_or_long_or_odd_names_are_bounded() {
    let hundred: Vec<_> = (0..100).map(|n| format!("DnsName(\"n{n}.example.com\")")).collect();
    let told = told(&for_names(&hundred.iter().map(String::as_str).collect::<Vec<_>>()), Asker::Relay);
    assert!(
        told.contains("for n0.example.com, n1.example.com, n2.example.com and 97 more, not for"),
        "{told}"
    );
    assert!(!told.contains("n3."), "{told}");

    let long = "l".repeat(10_000);
    assert!(shown_names([long.as_str(); 5]).len() < 300);
    assert_eq!(shown_names(["\u{1b}[31mred", "a\nb", "\u{202e}c"]), "\\u{1b}[31mred, a\\nb, \\u{202e}c");
    assert_eq!(shown_names(Vec::<String>::new()), "");
}

#[test]
fn io_errors_of_a_handshake_say_what_may_be_wrong() {
    let of = |kind: io::ErrorKind| TlsFault::of_handshake(&io::Error::from(kind)).explained(Asker::Msrp);
    for kind in [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
    ] {
        let told = of(kind);
        assert!(told.contains("instead of shaking hands (if that port speaks no TLS: --plain)"), "{told}");
    }
    let late = io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s");
    let told = TlsFault::of_handshake(&late).explained(Asker::Msrp);
    assert_eq!(told, "no answer within 5 s (if that port speaks no TLS: --plain)");
    let inner = io::Error::new(io::ErrorKind::InvalidData, certificate(CertificateError::UnknownIssuer));
    assert_eq!(TlsFault::of_handshake(&inner), TlsFault::UnknownIssuer);
    assert!(io_words(&inner, Asker::Msrp).contains("--ca FILE"));
    assert_eq!(io_words(&io::Error::other("as it is"), Asker::Msrp), "as it is");
}

#[test]
fn days_are_written_as_people_do() {
    for (seconds, written) in [
        (0, "1970-01-01"),
        (951_782_399, "2000-02-28"),
        (951_782_400, "2000-02-29"),
        (1_709_251_199, "2024-02-29"),
        (1_735_603_200, "2024-12-31"),
        (2_900_620_800, "2061-12-01"),
        (253_402_300_799, "9999-12-31"),
    ] {
        assert_eq!(day(at(seconds)), written);
    }
}
