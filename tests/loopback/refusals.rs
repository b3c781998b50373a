//! What the relay refuses, and in which words.

use crate::support::account::{DOMAIN, Login, Style, password};
use crate::support::bounded;
use crate::support::endpoint::Endpoint;
use crate::support::frame::{Frame, Request, fresh_id};
use crate::support::relay::{HOST, TestRelay};

/// One AUTH round of a fresh connection: its last answer, and the connection.
fn attempt(
    relay: &TestRelay,
    user: &str,
    secret: &str,
    realm: Option<&str>,
    style: Style,
) -> (Frame, Endpoint) {
    let mut endpoint = relay.stranger(user);
    let to = format!("msrps://{DOMAIN}:{};tcp", relay.tls.port());
    let login = Login { user, password: secret, to: &to, realm, style };
    let (_, last) = login.attempt(&mut endpoint);
    (last, endpoint)
}

#[test]
fn wrong_password_unknown_user_and_wrong_realm_get_a_fresh_challenge() {
    bounded(|| {
        let relay = TestRelay::start();
        let right = password("alice");
        let cases = [
            ("alice", "guess", None),
            ("nobody", "guess", None),
            ("alice", &right, Some("elsewhere.example")),
        ];
        for (user, secret, realm) in cases {
            let (last, _) = attempt(&relay, user, secret, realm, Style::default());
            assert_eq!(last.status(), Some(401), "{user}");
            assert!(last.required("WWW-Authenticate").contains("nonce="), "{user}");
        }
    });
}

#[test]
fn credentials_in_every_released_style_are_understood() {
    bounded(|| {
        let relay = TestRelay::start();
        for bits in 0..8_u8 {
            let style = Style { uri: bits & 1 != 0, all_quoted: bits & 2 != 0, no_space: bits & 4 != 0 };
            let (last, _) = attempt(&relay, "alice", &password("alice"), None, style);
            assert_eq!(last.status(), Some(200), "{bits:03b}");
        }
    });
}

#[test]
fn auth_to_a_sip_domain_without_a_port_is_answered() {
    bounded(|| {
        let relay = TestRelay::start();
        let mut alice = relay.stranger("alice");
        let to = format!("msrps://{DOMAIN};tcp");
        let login = Login {
            user: "alice",
            password: &password("alice"),
            to: &to,
            realm: None,
            style: Style::default(),
        };
        let (_, last) = login.attempt(&mut alice);
        assert_eq!(last.status(), Some(200));
        assert_eq!(last.required("From-Path"), to);
    });
}

#[test]
fn an_unknown_session_gets_481_and_the_connection_goes_on() {
    bounded(|| {
        let relay = TestRelay::start();
        let mut alice = relay.client("alice");
        for _ in 0..3 {
            let unknown = format!("msrps://{HOST}:{}/nobody;tcp {}", relay.tls.port(), alice.uri);
            let request = Request::send(&unknown, &alice.uri, &fresh_id(), "1-0/0");
            let tid = alice.send_bare(request);
            assert_eq!(alice.status(&tid), 481);
        }
    });
}

#[test]
fn a_second_connection_to_a_bound_session_gets_506_and_a_stolen_uri_481() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let bobs_path = bob.path();
        let tid = alice.say(&bobs_path, b"Hello");
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"Hello");
        let mut thief = relay.stranger("thief");
        let request = Request::send(&bobs_path, &thief.uri, &fresh_id(), "1-0/0");
        let tid = thief.send_bare(request);
        assert_eq!(thief.status(&tid), 506);
        // Alice's URI in somebody else's hands leads nowhere but to alice.
        let stolen =
            format!("{} msrps://192.0.2.1:2855/elsewhere;tcp", alice.relay.clone().unwrap_or_default());
        let request = Request::send(&stolen, &thief.uri, &fresh_id(), "1-0/0");
        let tid = thief.send_bare(request);
        assert_eq!(thief.status(&tid), 481);
        let tid = alice.say(&bobs_path, b"Still here");
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"Still here");
    });
}
