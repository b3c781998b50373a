//! Which clients are relays, by the certificate they show in the handshake.

use std::time::Duration;

use rustls::pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::trust::Authorities;

const RELAY: &str = "inner.example.net";

/// The unusual properties of a certificate.
#[derive(Default)]
struct Wish {
    usages: Vec<rcgen::ExtendedKeyUsagePurpose>,
    expired: bool,
    not_yet: bool,
    addresses_only: bool,
    through_intermediate: bool,
}

/// A certificate by the root that is trusted.
fn made(wish: Wish) -> Identity {
    let names = if wish.addresses_only { vec!["192.0.2.1".to_owned()] } else { vec![RELAY.to_owned()] };
    let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
    params.extended_key_usages = wish.usages;
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    if wish.expired {
        (params.not_before, params.not_after) = (year(2001), year(2002));
    }
    if wish.not_yet {
        (params.not_before, params.not_after) = (year(2201), year(2202));
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let mut chain = Vec::new();
    if wish.through_intermediate {
        let mut between = rcgen::CertificateParams::new(Vec::new()).unwrap();
        between.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        between.distinguished_name.push(rcgen::DnType::CommonName, "Test intermediate");
        let its_key = rcgen::KeyPair::generate().unwrap();
        let itself = between.signed_by(&its_key, &pki().issuer).unwrap();
        let issuer = rcgen::Issuer::new(between, its_key);
        chain.push(params.signed_by(&key, &issuer).unwrap().der().clone());
        chain.push(itself.der().clone());
    } else {
        chain.push(params.signed_by(&key, &pki().issuer).unwrap().der().clone());
    }
    Identity { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())), names }
}

fn with_usage(usage: rcgen::ExtendedKeyUsagePurpose) -> Identity {
    made(Wish { usages: vec![usage], ..Wish::default() })
}

/// A client that shows a certificate, or none.
pub(super) fn client(
    shown: Option<Identity>,
    version: &'static rustls::SupportedProtocolVersion,
    layer: RecordLayer,
) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki().root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(setup::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(Identity { chain, key, .. }) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.enable_secret_extraction = layer == RecordLayer::Direct;
    Arc::new(config)
}

/// The server's verdict on a client, once both have sent something.
pub(super) fn seen_by(setup: &TlsSetup, client: &Arc<ClientConfig>, size: usize) -> Client {
    let mut client = End::our_client(client, NAME);
    let tls = TlsConn::server(Arc::clone(&setup.server)).unwrap().recognising(setup.relays.clone());
    let mut server = End::ours(tls);
    exchange(&mut client, &mut server, size).unwrap();
    client.send(b"MSRP");
    server.send(b"200 OK");
    exchange(&mut client, &mut server, size).unwrap();
    assert_eq!((&server.plain[..], &client.plain[..]), (&b"MSRP"[..], &b"200 OK"[..]));
    server.tls().peer().clone()
}

pub(super) const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

/// The same with both versions and both record layers, in parts of several sizes: all must agree.
fn judged(shown: impl Fn() -> Option<Identity>) -> Client {
    let mut verdicts = Vec::new();
    for layer in [RecordLayer::Rustls, RecordLayer::Direct] {
        let setup = setup(layer, vec![identity(&[NAME])]);
        for version in VERSIONS {
            for size in [1, 100, usize::MAX] {
                verdicts.push(seen_by(&setup, &client(shown(), version, layer), size));
            }
        }
    }
    let first = verdicts[0].clone();
    let kind = |client: &Client| match client {
        Client::Unknown => 0,
        Client::Other(_) => 1,
        Client::Relay(_) => 2,
    };
    assert!(verdicts.iter().all(|verdict| kind(verdict) == kind(&first)), "{verdicts:?}");
    first
}

fn relay() -> Client {
    Client::Relay(vec![RELAY.to_owned()])
}

// C1: a valid chain makes a relay, whatever the certificate was made for, servers or clients.
#[test]
fn client_with_a_certificate_of_a_trusted_authority_is_a_relay() {
    use rcgen::ExtendedKeyUsagePurpose as Usage;
    assert_eq!(judged(|| Some(made(Wish::default()))), relay());
    assert_eq!(judged(|| Some(with_usage(Usage::ServerAuth))), relay());
    assert_eq!(judged(|| Some(with_usage(Usage::ClientAuth))), relay());
    assert_eq!(judged(|| Some(made(Wish { through_intermediate: true, ..Wish::default() }))), relay());
}

// C1: "an invalid or self-signed certificate is treated as none, handshake continues".
#[test]
fn client_with_any_other_certificate_is_no_relay_and_may_go_on() {
    use rcgen::ExtendedKeyUsagePurpose as Usage;
    let why = |wish: fn() -> Identity| match judged(|| Some(wish())) {
        Client::Other(why) => *why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(|| self_signed(&[RELAY])), NotARelay::UnknownIssuer);
    assert_eq!(why(|| made(Wish { addresses_only: true, ..Wish::default() })), NotARelay::Nameless);
    for refused in [
        why(|| made(Wish { expired: true, ..Wish::default() })),
        why(|| made(Wish { not_yet: true, ..Wish::default() })),
        why(|| with_usage(Usage::CodeSigning)),
    ] {
        let NotARelay::Invalid { names, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(names, RELAY);
        assert!(refused.to_string().contains(RELAY), "the log names it: {refused}");
    }
}

// A certificate's fault matters only if a trusted authority has signed it: everyone can make up the others.
#[test]
fn what_is_wrong_is_told_only_of_certificates_that_a_trusted_authority_vouches_for() {
    use testkit_certs as made;
    let root = made::named("Root").self_signed();
    let expired_middle = made::named("Middle").expired().signed_by(&root);
    let forged_root = made::named("Root").self_signed();
    let mut old = made::end_entity();
    (old.not_before, old.not_after) = (rcgen::date_time_ymd(2001, 2, 1), rcgen::date_time_ymd(2001, 3, 1));
    let mut wrong_use = made::end_entity();
    wrong_use.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let mut many = old.clone();
    let name = |n| rcgen::SanType::DnsName(format!("n{n}.example.com").try_into().unwrap());
    many.subject_alt_names = (0..100).map(name).collect();

    let mut named = Authorities::none(setup::provider().signature_verification_algorithms);
    named.add_named(&root.certificate).unwrap();
    let own = made::shown_as(&old, &forged_root, []);
    named.add_named(&own.chain[0]).unwrap();
    let relays = RelayRoots::new(named);
    let judged = |params: &rcgen::CertificateParams, by: &made::Authority| {
        let shown = made::shown_as(params, by, [by.certificate.clone()]);
        relays.judge(&shown.chain, UnixTime::now()).unwrap_err()
    };
    for params in [&old, &wrong_use, &many] {
        assert_eq!(judged(params, &forged_root), NotARelay::UnknownIssuer);
        assert!(matches!(judged(params, &root), NotARelay::Invalid { .. }));
    }
    assert!(matches!(judged(&old, &expired_middle), NotARelay::Invalid { .. }));
    assert!(matches!(judged(&made::end_entity(), &expired_middle), NotARelay::Invalid { .. }));
    assert!(
        matches!(relays.judge(&own.chain, UnixTime::now()), Err(NotARelay::Invalid { .. })),
        "it was named"
    );

    let told = judged(&many, &root).to_string();
    assert_eq!(
        told,
        "its certificate is refused, for n0.example.com, n1.example.com, n2.example.com and 97 more: its certificate, or an \
         issuer's, has expired on 2001-03-01"
    );
}

// RFC 4976, 9.2: clients usually show nothing.
#[test]
fn client_without_a_certificate_is_unknown() {
    assert_eq!(judged(|| None), Client::Unknown);
}

#[test]
fn without_trusted_authorities_no_client_is_a_relay() {
    let trust = Trust { called: Roots::Certificates(vec![pki().root.clone()]), calling: None };
    let setup = TlsSetup::new(vec![identity(&[NAME])], NAME, &trust, RecordLayer::Direct).unwrap();
    let shows = client(Some(made(Wish::default())), &rustls::version::TLS13, RecordLayer::Direct);
    assert_eq!(seen_by(&setup, &shows, usize::MAX), Client::Unknown);
}

// Between these two, the relay shows the certificate for the host name without a setting for it.
#[test]
fn relay_shows_its_own_certificate_to_a_relay_that_it_calls() {
    for layer in [RecordLayer::Rustls, RecordLayer::Direct] {
        let roots = || Roots::Certificates(vec![pki().root.clone()]);
        let trust = Trust { called: roots(), calling: Some(roots()) };
        let own = vec![identity(&["first.example.net"]), identity(&[RELAY])];
        let caller = TlsSetup::new(own, RELAY, &trust, layer).unwrap();
        let called = setup(layer, vec![identity(&[NAME])]);
        assert_eq!(seen_by(&called, &caller.client_verify, 100), relay());
        // An endpoint is shown nothing.
        assert_eq!(seen_by(&called, &caller.client_encrypt_only, 100), Client::Unknown);
    }
}

// The certificate is public; the key is not.
#[test]
fn certificate_without_its_key_ends_the_handshake() {
    #[derive(Debug)]
    struct Thief(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Thief {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    for version in VERSIONS {
        let provider = setup::provider();
        let key = provider.key_provider.load_private_key(identity(&[RELAY]).key).unwrap();
        let stolen = rustls::sign::CertifiedKey::new(made(Wish::default()).chain, key);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pki().root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(Thief(Arc::new(stolen))));
        let setup = setup(RecordLayer::Direct, vec![identity(&[NAME])]);
        let mut client = End::our_client(&Arc::new(config), NAME);
        let tls = TlsConn::server(Arc::clone(&setup.server)).unwrap().recognising(setup.relays.clone());
        let mut server = End::ours(tls);
        assert!(exchange(&mut client, &mut server, usize::MAX).is_err());
        assert_eq!(*server.tls().peer(), Client::Unknown);
    }
}

// Each judgement is made at the time of the handshake.
#[test]
fn judgement_is_made_at_the_time_that_is_given() {
    let setup = setup(RecordLayer::Rustls, vec![]);
    let relays = setup.relays.unwrap();
    let chain = made(Wish { expired: true, ..Wish::default() }).chain;
    let at = |seconds| relays.judge(&chain, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    // In the middle of 2001, and of 2003.
    assert_eq!(at(993_945_600), Ok(vec![RELAY.to_owned()]));
    assert!(matches!(at(1_057_017_600), Err(NotARelay::Invalid { .. })));
    assert_eq!(relays.judge(&[], UnixTime::now()), Err(NotARelay::Unusable));
}

// An RSA key of 1024 bits: no signature made with it counts, so it proves nothing, and it ends no handshake.
#[test]
fn certificate_with_a_short_key_is_unusable() {
    let relays = setup(RecordLayer::Rustls, vec![]).relays.unwrap();
    let short = CertificateDer::from(&include_bytes!("short_key.der")[..]);
    assert_eq!(relays.judge(&[short], UnixTime::now()), Err(NotARelay::Unusable));
    let garbage = CertificateDer::from(&b"0123"[..]);
    assert_eq!(relays.judge(&[garbage], UnixTime::now()), Err(NotARelay::Unusable));
}
