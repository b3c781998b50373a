//! Chains that a caller or a next hop shows, honest or made up to cost us time, in whole handshakes.

use super::relays::{VERSIONS, client, seen_by};
use super::*;
use testkit_certs::{self as made, Shown, named};

const LAYERS: [RecordLayer; 2] = [RecordLayer::Rustls, RecordLayer::Direct];

/// A server that shows this.
fn next_hop(shown: &Shown, version: &'static rustls::SupportedProtocolVersion) -> End {
    let config = ServerConfig::builder_with_provider(Arc::new(setup::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(shown.chain.clone(), shown.key.clone_key())
        .unwrap();
    End::their_server(&Arc::new(config))
}

fn caller(shown: &Shown) -> Option<Identity> {
    let (chain, key) = (shown.chain.clone(), shown.key.clone_key());
    Some(Identity { chain, key, names: Vec::new() })
}

/// The relay's verdict on a next hop that shows this chain.
fn dialled(
    setup: &TlsSetup,
    shown: &Shown,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<(), TlsError> {
    let mut client = End::our_client(&setup.client_verify, made::HOST);
    let mut server = next_hop(shown, version);
    exchange(&mut client, &mut server, usize::MAX)
}

// webpki alone searches for up to 200,000 steps, and says so.
#[test]
fn made_up_chain_of_a_caller_is_unknown_and_not_searched() {
    for layer in LAYERS {
        let setup = setup(layer, vec![identity(&[NAME])]);
        for (what, shown) in made::hostile("Test root") {
            for version in VERSIONS {
                let seen = seen_by(&setup, &client(caller(&shown), version, layer), usize::MAX);
                let unknown = Client::Other(Box::new(NotARelay::UnknownIssuer));
                assert_eq!(seen, unknown, "{what} {version:?}");
            }
        }
    }
}

#[test]
fn made_up_chain_of_a_next_hop_is_unknown_and_not_searched() {
    let searched = ["MaximumPathBuildCallsExceeded", "MaximumSignatureChecksExceeded"];
    for layer in LAYERS {
        let setup = setup(layer, Vec::new());
        for (what, shown) in made::hostile("Test root") {
            for version in VERSIONS {
                let error = dialled(&setup, &shown, version).unwrap_err();
                assert_eq!(error.whose_certificate(), Some(Whose::Theirs), "{what}: {error:?}");
                let said = format!("{error:?}");
                assert!(!searched.iter().any(|budget| said.contains(budget)), "{what} {version:?}: {said}");
            }
        }
    }
}

// RFC 8446, 4.4.2
#[test]
fn honest_chain_is_taken_in_any_order_from_callers_and_next_hops() {
    let root = named("A root").self_signed();
    let upper = named("Upper").signed_by(&root);
    let lower = named("Lower").signed_by(&upper);
    let others = [&upper, &named("Stranger").self_signed(), &lower, &upper, &root];
    let shown = made::shown(&lower, others.map(|one| one.certificate.clone()));
    let roots = || Roots::Certificates(vec![root.certificate.clone(), pki().root.clone()]);
    let trust = Trust { called: roots(), calling: Some(roots()) };
    for layer in LAYERS {
        let setup = TlsSetup::new(vec![identity(&[NAME])], NAME, &trust, layer).unwrap();
        for version in VERSIONS {
            dialled(&setup, &shown, version).unwrap();
            let seen = seen_by(&setup, &client(caller(&shown), version, layer), usize::MAX);
            assert_eq!(seen, Client::Relay(vec![made::HOST.to_owned()]));
        }
    }
}

// What `openssl req -x509` makes calls itself an authority.
#[test]
fn self_signed_certificate_that_is_named_is_taken_from_callers_and_next_hops() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = made::end_entity();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let chain = vec![params.self_signed(&key).unwrap().der().clone()];
    let shown = Shown { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() };
    let roots = || Roots::Certificates(vec![shown.chain[0].clone()]);
    let trust = Trust { called: roots(), calling: Some(roots()) };
    for layer in LAYERS {
        let setup = TlsSetup::new(vec![identity(&[NAME])], NAME, &trust, layer).unwrap();
        for version in VERSIONS {
            dialled(&setup, &shown, version).unwrap();
            let seen = seen_by(&setup, &client(caller(&shown), version, layer), usize::MAX);
            assert_eq!(seen, Client::Relay(vec![made::HOST.to_owned()]));
        }
    }
}

/// CPU of one handshake, in microseconds, of both sides in this thread.
fn cost(mut handshake: impl FnMut()) -> u128 {
    let spent = || {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        u128::try_from(spent.tv_sec * 1_000_000_000 + spent.tv_nsec).unwrap()
    };
    const ROUNDS: u128 = 50;
    let began = spent();
    (0..ROUNDS).for_each(|_| handshake());
    (spent() - began) / ROUNDS / 1000
}

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_chains() {
    let setup = setup(RecordLayer::Direct, vec![identity(&[NAME])]);
    for version in VERSIONS {
        let ordinary = client(None, version, RecordLayer::Direct);
        println!("{version:?} without: {} us", cost(|| drop(seen_by(&setup, &ordinary, usize::MAX))));
        for (what, shown) in made::hostile("Test root") {
            let config = client(caller(&shown), version, RecordLayer::Direct);
            let called = cost(|| drop(seen_by(&setup, &config, usize::MAX)));
            let dialled = cost(|| drop(dialled(&setup, &shown, version)));
            println!("{version:?} {what}: as a caller {called} us, as a next hop {dialled} us");
        }
    }
}
