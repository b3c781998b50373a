//! Faulty certificates on either side: who refuses, what the sender hears, what the log says.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use super::relays::{Relay, Relays, Wish, address_of, log_in, path_to};
use testkit_net::authority::Authority;
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Request, fresh_id};
use testkit_net::{bounded, until};

/// A message from Alice: taken by her relay, and then reported to have failed.
#[track_caller]
fn fails_with(alice: &mut Endpoint, to: &str, code: u16) {
    let tid = alice.say(to, b"Hello");
    assert_eq!(alice.status(&tid), 200);
    let report = alice.request("REPORT");
    assert!(report.required("Status").starts_with(&format!("000 {code} ")), "{report:?}");
}

#[track_caller]
fn log_says(relay: &Relay, words: &[&str]) {
    let found = until(&format!("the log of {} to say {words:?}", relay.host), || {
        let log = relay.process.log();
        log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
    });
    assert!(!found.contains(" DEBUG "), "an operator must see it: {found}");
}

// S2: fails closed, and says what was wrong with whose certificate.
#[test]
fn next_hop_with_an_untrusted_certificate_is_not_written_to() {
    bounded(|| {
        let relays = Relays::new();
        let others = Authority::new("An authority that no relay trusts");
        let a = relays.relay("a.osier.example");
        let b = relays.relay_with("b.alder.example", &Wish { authority: &others, ..relays.wish() });
        let (mut alice, bob) = (a.client("alice"), b.client("bob"));
        fails_with(&mut alice, &path_to(&bob), 408);
        let what = "signed by no authority that is trusted here (name its issuer";
        log_says(&a, &["The certificate of a next hop is refused", "b.alder.example", what, "outbound.ca"]);
    });
}

#[test]
fn next_hop_whose_certificate_is_anothers_is_not_written_to() {
    bounded(|| {
        let relays = Relays::new();
        let a = relays.relay("a.osier.example");
        // Clients of this relay use a name that leads to a relay with another name.
        let c = relays
            .relay_with("b.alder.example", &Wish { certified_for: Some("c.alder.example"), ..relays.wish() });
        let mut alice = a.client("alice");
        let mut bob = c.connect("bob");
        assert_eq!(log_in(&mut bob, "bob", &c.uri()), 200);
        let to = path_to(&bob).replace("c.alder.example", "b.alder.example");
        fails_with(&mut alice, &to, 408);
        log_says(&a, &["The certificate of a next hop is refused", "b.alder.example", "c.alder.example"]);
        // AUTH is a request to a relay, too: it gets no credentials for another relay.
        let mut carol = a.client("carol");
        let session = carol.relay.clone().unwrap();
        let wrong = c.uri().replace("c.alder.example", "b.alder.example");
        let tid = carol.send_bare(Request::new("AUTH", &format!("{session} {wrong}"), &carol.uri.clone()));
        assert_eq!(carol.status(&tid), 408);
    });
}

// S2: an endpoint's policy, which accepts any certificate, never applies to a relay.
#[test]
fn policy_for_endpoints_is_not_one_for_relays() {
    bounded(|| {
        let relays = Relays::new();
        let others = Authority::new("An authority that no relay trusts");
        let a = relays.relay_with(
            "a.osier.example",
            &Wish { outbound: ", endpoint_tls: encrypt-only", ..relays.wish() },
        );
        let b = relays.relay_with("b.alder.example", &Wish { authority: &others, ..relays.wish() });
        let (mut alice, mut bob) = (a.client("alice"), b.client("bob"));
        fails_with(&mut alice, &path_to(&bob), 408);
        // Bob heard none of it.
        bob.say(&bob.path(), b"to myself");
        assert_eq!(bob.frame().status(), Some(400));
    });
}

// A15: the same in reverse: a relay without proof may not ask for sessions.
#[test]
fn relay_with_an_untrusted_certificate_gets_no_sessions_for_its_clients() {
    bounded(|| {
        let relays = Relays::new();
        let b = relays.relay("b.alder.example");
        let others = Authority::new("An authority that no relay trusts");
        let from =
            |name: &str| format!("msrps://{name}:2855/{};tcp msrps://192.0.2.1:2855/alice;tcp", fresh_id());
        for config in [
            relays.relay_as_client(&others, "a.osier.example"),
            relays.relay_as_client(&Authority::new("x"), "a.osier.example"),
        ] {
            let mut relay = b.connect_as("a", &config);
            let tid = relay.send_bare(Request::new("AUTH", &b.uri(), &from("a.osier.example")));
            assert_eq!(relay.status(&tid), 403, "the handshake has gone on");
        }
        log_says(
            &b,
            &["AUTH behind a relay refused", "403", "AUTH through a relay that has not proven its name"],
        );
        // A14: a valid certificate, but another relay's.
        let mut relay = b.connect_as("a", &relays.relay_as_client(&relays.authority, "d.rowan.example"));
        let tid = relay.send_bare(Request::new("AUTH", &b.uri(), &from("a.osier.example")));
        assert_eq!(relay.status(&tid), 403);
        relay.end();
        log_says(&b, &["AUTH behind a relay refused", "403", "certificate is for another name"]);
        // And the right one.
        let mut relay = b.connect_as("a", &relays.relay_as_client(&relays.authority, "a.osier.example"));
        let tid = relay.send_bare(Request::new("AUTH", &b.uri(), &from("a.osier.example")));
        assert_eq!(relay.status(&tid), 401);
    });
}

// C1: a peer with a worthless certificate is an endpoint, like one without; so a client may log in.
#[test]
fn client_with_a_certificate_of_its_own_logs_in_like_any_other() {
    bounded(|| {
        let relays = Relays::new();
        let b = relays.relay("b.alder.example");
        let others = Authority::new("A telephone's own");
        for authority in [&others, &relays.authority] {
            let mut phone = b.connect_as("phone", &relays.relay_as_client(authority, "phone.example"));
            assert_eq!(log_in(&mut phone, "alice", &b.uri()), 200);
        }
    });
}

// A14, if the operator insists: a message through a relay without proof is refused, reported and logged.
#[test]
fn message_through_a_relay_without_proof_is_refused_where_the_operator_insists() {
    bounded(|| {
        let relays = Relays::new();
        let others = Authority::new("An authority that no relay trusts");
        let a = relays.relay_with("a.osier.example", &Wish { authority: &others, ..relays.wish() });
        let b =
            relays.relay_with("b.alder.example", &Wish { tls: ", unproven_relays: refuse", ..relays.wish() });
        let (mut alice, bob) = (a.client("alice"), b.client("bob"));
        fails_with(&mut alice, &path_to(&bob), 403);
        let log = until("the log to say why", || {
            let log = b.process.log();
            log.contains("request through a relay that has not proven its name").then_some(log)
        });
        assert!(log.contains("no authority in tls.client_ca vouches for its certificate"), "{log}");
        // A relay with proof is accepted.
        let d = relays.relay("d.rowan.example");
        let (mut carol, mut dave) = (d.client("carol"), b.client("dave"));
        carol.say(&path_to(&dave), b"Hello");
        assert_eq!(dave.request("SEND").body, b"Hello");
    });
}

// A self-made certificate is not the operator's business, and takes no room in the log.
#[test]
fn certificate_that_no_trusted_authority_has_signed_is_logged_at_debug_with_few_names() {
    bounded(|| {
        let relays = Relays::new();
        let b = relays.relay("b.alder.example");
        let hosts: Vec<String> = (0..100).map(|n| format!("n{n}.osier.example")).collect();
        let mut phone = b.connect_as("phone", &relays.client_with(&expired(&hosts)));
        assert_eq!(log_in(&mut phone, "alice", &b.uri()), 200);
        let line = until("the log to say what the certificate is", || {
            let log = b.process.log();
            log.lines().find(|line| line.contains("not taken for a relay")).map(str::to_owned)
        });
        assert!(line.contains("DEBUG"), "{line}");
        for line in b.process.log().lines() {
            assert!(line.matches(".osier.example").count() <= 3 && line.len() < 2000, "{line}");
        }
    });
}

/// An expired self-signed certificate, and its key.
fn expired(hosts: &[String]) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(hosts).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

// A next hop that answers, but not with TLS, and one that only closes.
#[test]
fn next_hop_that_speaks_no_tls_is_told_in_words() {
    bounded(|| {
        let relays = Relays::new();
        let a = relays.relay("a.osier.example");
        let mut alice = a.client("alice");
        for (answer, what) in
            [(&b"HTTP/1.1 400\r\n\r\n"[..], "is not TLS"), (b"", "instead of shaking hands")]
        {
            let listener = TcpListener::bind((address_of("b.alder.example"), 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let far = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            });
            let to = format!("msrps://b.alder.example:{port}/bobs;tcp msrps://192.0.2.1:2855/bob;tcp");
            fails_with(&mut alice, &to, 408);
            far.join().unwrap();
            let remedy = "that port may speak no TLS, or no MSRP";
            log_says(&a, &["TLS with a next hop failed", "b.alder.example", what, remedy]);
        }
    });
}

// A relay that requires certificates of another authority: it refuses us, and the log says that it was our certificate.
#[test]
fn next_hop_that_refuses_our_certificate_is_named_in_the_log() {
    bounded(|| {
        let relays = Relays::new();
        let a = relays.relay("a.osier.example");
        let strangers = Authority::new("They trust this one alone");
        let strict = relays.relay_as_server("b.alder.example", Some(&strangers));
        let listener = TcpListener::bind((address_of("b.alder.example"), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let far = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut tls = rustls::ServerConnection::new(strict).unwrap();
            while tls.is_handshaking() {
                if tls.complete_io(&mut stream).is_err() {
                    return;
                }
            }
            panic!("it has taken our certificate");
        });
        let mut alice = a.client("alice");
        let to = format!("msrps://b.alder.example:{port}/bobs;tcp msrps://192.0.2.1:2855/bob;tcp");
        let tid = alice.say(&to, b"Hello");
        assert_eq!(alice.status(&tid), 200);
        let report = alice.request("REPORT");
        assert!(report.required("Status").starts_with("000 "), "{report:?}");
        far.join().unwrap();
        log_says(&a, &["A next hop refuses our certificate", "b.alder.example"]);
    });
}

// The operator's list, both ways.
#[test]
fn relays_outside_the_list_are_neither_called_nor_served() {
    bounded(|| {
        let relays = Relays::new();
        let a = relays.relay_with(
            "a.osier.example",
            &Wish { outbound: ", relays: [\"*.rowan.example\"]", ..relays.wish() },
        );
        let (b, d) = (relays.relay("b.alder.example"), relays.relay("d.rowan.example"));
        let (mut alice, bob, mut dave) = (a.client("alice"), b.client("bob"), d.client("dave"));
        let tid = alice.say(&path_to(&bob), b"Hello");
        assert_eq!(alice.status(&tid), 408);
        // She can still write to another user.
        alice.say(&path_to(&dave), b"Hello");
        assert_eq!(dave.request("SEND").body, b"Hello");
        let mut carol = b.client("carol");
        let to = format!("{} {}", carol.relay.clone().unwrap(), a.uri());
        let tid = carol.send_bare(Request::new("AUTH", &to, &carol.uri.clone()));
        assert_eq!(carol.status(&tid), 403);
        let mut dave = d.client("dave");
        let to = format!("{} {}", dave.relay.clone().unwrap(), a.uri());
        assert_eq!(log_in(&mut dave, "dave", &to), 200);
    });
}
