//! What webpki gets of a peer's certificates, and its verdict.

use std::cell::Cell;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm,
    UnixTime,
};
use rustls::{CertificateError, Error};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::path::{ISSUERS_MAX, NoPath, PATH_BYTES_MAX};
use super::*;
use testkit_certs::{Authority, HOST, Shown, end_entity, hostile, named, shown, shown_as};

thread_local! {
    static SIGNATURES: Cell<usize> = const { Cell::new(0) };
    static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// Counts verified signatures.
#[derive(Debug)]
struct Counted(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Counted {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        SIGNATURES.set(SIGNATURES.get() + 1);
        self.0.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

/// Counts certificates that webpki looks at while it searches for a path: it asks once for each.
struct CountedUsage;

impl ExtendedKeyUsageValidator for CountedUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        STEPS.set(STEPS.get() + 1);
        Ok(())
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    let usual = aws_lc_rs::default_provider().signature_verification_algorithms;
    let counted = usual
        .all
        .iter()
        .map(|one| -> &'static dyn SignatureVerificationAlgorithm { Box::leak(Box::new(Counted(*one))) });
    WebPkiSupportedAlgorithms { all: counted.collect::<Vec<_>>().leak(), mapping: usual.mapping }
}

fn trusting(certificates: &[&CertificateDer<'static>]) -> Authorities {
    let mut authorities = Authorities::none(algorithms());
    for certificate in certificates {
        authorities.add_named(certificate).unwrap();
    }
    authorities
}

fn path_of<'a>(authorities: &Authorities, shown: &'a Shown) -> Result<Vec<CertificateDer<'a>>, NoPath> {
    authorities.path(&shown.chain[0], &shown.chain[1..], UnixTime::now())
}

fn verified(
    authorities: &Authorities,
    chain: &[CertificateDer<'_>],
    host: &str,
) -> Result<(), CertificateError> {
    let name = ServerName::try_from(host).unwrap();
    match authorities.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(Error::InvalidCertificate(why)) => Err(why),
        Err(other) => panic!("{other:?}"),
    }
}

// The cost of a path is counted, not timed: certificates that webpki looks at, and signatures.
#[test]
fn made_up_chains_cost_no_more_than_one_path() {
    let root = named("Root").self_signed();
    let authorities = trusting(&[&root.certificate]);
    for (what, shown) in hostile("Root") {
        SIGNATURES.set(0);
        assert!(verified(&authorities, &shown.chain, HOST).is_err(), "{what}");
        assert!(SIGNATURES.get() <= 1, "{what}: {} signatures", SIGNATURES.get());

        let Ok(path) = path_of(&authorities, &shown) else { continue };
        assert!(path.len() <= ISSUERS_MAX, "{what}: {}", path.len());
        let bytes: usize = path.iter().chain([&shown.chain[0]]).map(|one| one.len()).sum();
        assert!(bytes <= PATH_BYTES_MAX, "{what}: {bytes}");
        STEPS.set(0);
        let own = EndEntityCert::try_from(&shown.chain[0]).unwrap();
        let anchors = authorities.anchors();
        let judged =
            own.verify_for_usage(algorithms().all, anchors, &path, UnixTime::now(), CountedUsage, None, None);
        assert!(judged.is_err(), "{what}");
        assert!(STEPS.get() <= 1 + path.len(), "{what}: {} steps for {}", STEPS.get(), path.len());
    }
}

// The same measure, without the bound: what the test above would find.
#[test]
fn measure_of_cost_tells_a_search_from_one_path() {
    let root = named("Root").self_signed();
    let authorities = trusting(&[&root.certificate]);
    let (_, shown) = hostile("Root").into_iter().find(|(what, _)| *what == "a maze").unwrap();
    SIGNATURES.set(0);
    STEPS.set(0);
    let own = EndEntityCert::try_from(&shown.chain[0]).unwrap();
    let (anchors, others) = (authorities.anchors(), &shown.chain[1..]);
    let judged =
        own.verify_for_usage(algorithms().all, anchors, others, UnixTime::now(), CountedUsage, None, None);
    assert!(judged.is_err());
    assert!(STEPS.get() > 100 && SIGNATURES.get() > 50, "{} {}", STEPS.get(), SIGNATURES.get());
}

/// A root, two authorities below it, and a certificate that the lower one has signed.
fn honest() -> (Authority, Authority, Authority, Shown) {
    let root = named("Root").self_signed();
    let upper = named("Upper").signed_by(&root);
    let lower = named("Lower").signed_by(&upper);
    let shown = shown(&lower, [lower.certificate.clone(), upper.certificate.clone()]);
    (root, upper, lower, shown)
}

// RFC 8446, 4.4.2: extra certificates and any order are to be tolerated.
#[test]
fn honest_chain_passes_in_any_order_twice_and_with_others() {
    let (root, upper, lower, shown) = honest();
    let authorities = trusting(&[&root.certificate]);
    let stranger = named("Stranger").self_signed();
    let (own, root, upper, lower, stranger) =
        (&shown.chain[0], &root.certificate, &upper.certificate, &lower.certificate, &stranger.certificate);
    for others in [
        vec![lower, upper],
        vec![upper, lower],
        vec![lower, upper, root],
        vec![root, stranger, upper, lower],
        vec![lower, lower, upper, own, upper, lower, root, root],
        vec![stranger, own, upper, stranger, lower],
    ] {
        let chain: Vec<_> = [own].into_iter().chain(others).cloned().collect();
        SIGNATURES.set(0);
        assert_eq!(verified(&authorities, &chain, HOST), Ok(()), "{}", chain.len());
        assert_eq!(SIGNATURES.get(), 3);
    }
    let without = [own.clone(), upper.clone()];
    assert_eq!(verified(&authorities, &without, HOST), Err(CertificateError::UnknownIssuer));
}

#[test]
fn cross_signed_authority_leads_by_the_way_that_is_trusted() {
    let (trusted, unknown) = (named("Trusted").self_signed(), named("Unknown").self_signed());
    let (key, again) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let copy = |key: &KeyPair| KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let between = named("Between").signed_by(&trusted);
    let by_unknown = named("Cross").with_key_signed_by(copy(&key), &unknown);
    let by_trusted = named("Cross").with_key_signed_by(copy(&key), &trusted);
    let by_between = named("Cross").with_key_signed_by(copy(&key), &between);
    let self_signed = named("Cross").with_key(copy(&key));
    let other_key = named("Cross").with_key_signed_by(again, &trusted);
    let authorities = trusting(&[&trusted.certificate]);
    for others in [
        vec![&by_unknown, &by_trusted],
        vec![&by_trusted, &by_unknown],
        vec![&self_signed, &by_unknown, &by_between, &between],
        vec![&between, &by_between, &by_unknown],
        // Of its name and shorter, but with another key.
        vec![&other_key, &by_between, &between],
    ] {
        let others = others.into_iter().map(|one| one.certificate.clone());
        let shown = shown(&by_trusted, others);
        assert_eq!(verified(&authorities, &shown.chain, HOST), Ok(()), "{}", shown.chain.len());
    }
}

#[test]
fn authority_with_a_new_certificate_or_key_is_found_beside_the_old_one() {
    let root = named("Root").self_signed();
    let key = KeyPair::generate().unwrap();
    let copy = || KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let old = named("Middle").expired().with_key_signed_by(copy(), &root);
    let new = named("Middle").with_key_signed_by(copy(), &root);
    let authorities = trusting(&[&root.certificate]);
    for others in [[&old, &new], [&new, &old]] {
        let shown = shown(&new, others.map(|one| one.certificate.clone()));
        assert_eq!(verified(&authorities, &shown.chain, HOST), Ok(()));
    }
    // The only one has expired: that is the error.
    let alone = shown(&old, [old.certificate.clone()]);
    assert!(matches!(
        verified(&authorities, &alone.chain, HOST),
        Err(CertificateError::ExpiredContext { .. })
    ));
    // A root with a new key, which is certified by the old one.
    let new_root = named("Root").signed_by(&root);
    let shown = shown(&new_root, [new_root.certificate.clone()]);
    assert_eq!(verified(&authorities, &shown.chain, HOST), Ok(()));
    // Two roots of one name are two.
    let both = trusting(&[&named("Root").self_signed().certificate, &root.certificate]);
    assert_eq!(verified(&both, &honest_below(&root).chain, HOST), Ok(()));
}

fn honest_below(root: &Authority) -> Shown {
    let middle = named("A middle").signed_by(root);
    shown(&middle, [middle.certificate.clone()])
}

#[test]
fn authorities_without_key_identifiers_are_found_by_name() {
    let root = named("Root").without_key_ids().self_signed();
    let middle = named("Middle").without_key_ids().signed_by(&root);
    let mut params = end_entity();
    params.use_authority_key_identifier_extension = false;
    let shown = shown_as(&params, &middle, [middle.certificate.clone()]);
    assert_eq!(verified(&trusting(&[&root.certificate]), &shown.chain, HOST), Ok(()));
}

/// A chain with so many authorities between.
fn long(root: &Authority, names: &[&'static str], padding: usize) -> Shown {
    let mut all: Vec<Authority> = Vec::new();
    for name in names {
        let made = named(name).padded(padding).signed_by(all.last().unwrap_or(root));
        all.push(made);
    }
    let others = all.iter().map(|one| one.certificate.clone());
    shown(all.last().unwrap(), others.collect::<Vec<_>>())
}

#[test]
fn path_has_its_bounds_in_certificates_and_in_bytes() {
    let root = named("Root").self_signed();
    let authorities = trusting(&[&root.certificate]);
    let five = ["A", "B", "C", "D", "E"];
    let four = long(&root, &five[..4], 0);
    assert_eq!(verified(&authorities, &four.chain, HOST), Ok(()));
    assert_eq!(path_of(&authorities, &long(&root, &five, 0)), Err(NoPath::TooLong));
    assert!(path_of(&authorities, &long(&root, &five[..3], 4000)).is_ok());
    assert_eq!(path_of(&authorities, &long(&root, &five[..4], 4000)), Err(NoPath::TooLong));
    let why = verified(&authorities, &long(&root, &five, 0).chain, HOST).unwrap_err();
    let said = TlsFault::from(&why).to_string();
    assert!(said.contains("more than 4 others, or by more than 16 KiB"), "{said}");

    let mut large = end_entity();
    let name = |n| rcgen::SanType::DnsName(format!("n{n}.example.com").try_into().unwrap());
    large.subject_alt_names.extend((0..1500).map(name));
    assert_eq!(path_of(&authorities, &shown_as(&large, &root, [])), Err(NoPath::TooLong));
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let (root, upper, lower, shown) = honest();
    let authorities = trusting(&[&root.certificate]);
    let garbage = CertificateDer::from(b"no certificate".to_vec());
    let chain =
        [&shown.chain[0], &garbage, &lower.certificate, &garbage, &upper.certificate].map(Clone::clone);
    assert_eq!(verified(&authorities, &chain, HOST), Ok(()));
    let path = authorities.path(&garbage, &chain, UnixTime::now());
    assert_eq!(path, Err(NoPath::Unknown));
}

/// What `openssl req -x509` makes: self-signed, for a host, and an authority by its own word.
fn by_openssl(dates: Option<(i32, i32)>) -> CertificateDer<'static> {
    let mut params = end_entity();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    if let Some((from, to)) = dates {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
    }
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

#[test]
fn certificate_that_was_named_is_taken_for_its_names_within_its_dates() {
    let own = by_openssl(None);
    let authorities = trusting(&[&own]);
    let chain = [own];
    assert_eq!(verified(&authorities, &chain, HOST), Ok(()));
    let another = verified(&authorities, &chain, "other.example.com").unwrap_err();
    assert!(matches!(another, CertificateError::NotValidForNameContext { .. }), "{another:?}");
    for (dates, early) in [((2001, 2002), false), ((2901, 2902), true)] {
        let own = by_openssl(Some(dates));
        let why = verified(&trusting(&[&own]), &[own], HOST).unwrap_err();
        match early {
            true => assert!(matches!(why, CertificateError::NotValidYetContext { .. }), "{why:?}"),
            false => assert!(matches!(why, CertificateError::ExpiredContext { .. }), "{why:?}"),
        }
    }
    // Another one like it is not accepted, nor one that it signed without being an authority.
    let other = by_openssl(None);
    assert!(verified(&authorities, &[other], HOST).is_err());
    // A certificate of the system's, which was not named, vouches only for others.
    let mut system = Authorities::none(algorithms());
    system.add_authority(&chain[0]).unwrap();
    assert!(verified(&system, &chain, HOST).is_err());
}

// RFC 5280, 4.2.1.9: otherwise the holder of its key could pretend to be any host.
#[test]
fn certificate_that_was_named_and_is_no_authority_vouches_for_no_other() {
    for is_ca in [rcgen::IsCa::NoCa, rcgen::IsCa::ExplicitNoCa] {
        let mut params = end_entity();
        params.is_ca = is_ca;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let authorities = trusting(&[&certificate]);
        assert_eq!(authorities.len(), 1);
        assert_eq!(verified(&authorities, std::slice::from_ref(&certificate), HOST), Ok(()));
        let named = Authority { certificate, issuer: rcgen::Issuer::new(params, key) };
        for others in [vec![], vec![named.certificate.clone()]] {
            let shown = shown(&named, others);
            assert_eq!(verified(&authorities, &shown.chain, HOST), Err(CertificateError::UnknownIssuer));
        }
    }
}

// Also one that another authority has signed.
#[test]
fn certificate_that_was_named_needs_no_issuer() {
    let (_, _, _, shown) = honest();
    assert_eq!(verified(&trusting(&[&shown.chain[0]]), &shown.chain[..1], HOST), Ok(()));
}

#[test]
fn named_certificate_is_judged_at_the_time_that_is_given() {
    let own = by_openssl(Some((2001, 2002)));
    let at = |seconds| in_its_dates(&own, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    // Before, at the begin, in the middle, at the end, and after.
    assert!(at(978_307_199).is_err() && at(978_307_200).is_ok() && at(993_945_600).is_ok());
    assert!(at(1_009_843_200).is_ok() && at(1_009_843_201).is_err());
}
