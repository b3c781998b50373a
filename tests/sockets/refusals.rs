//! The relay's refusals, and their words.

use testkit_net::account::{DOMAIN, Login, Style, password};
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Frame, Request, fresh_id};
use testkit_net::process::RelayProcess;
use testkit_net::relay::{HOST, Setup, TestRelay};
use testkit_net::{bounded, until};

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
    let login = Login { realm, style, ..Login::new(user, secret, &to) };
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
            ("absent", "guess", None),
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
fn client_that_addresses_auth_to_the_relays_host_gets_in_where_all_accounts_are_of_one_domain() {
    bounded(|| {
        let relay = TestRelay::start();
        for host in [HOST, "192.0.2.10", DOMAIN] {
            let mut alice = relay.stranger("alice");
            let to = format!("msrps://{host}:{};tcp", relay.tls.port());
            let password = password("alice");
            let login = Login::new("alice", &password, &to);
            let (challenge, last) = login.attempt(&mut alice);
            assert!(
                challenge.required("WWW-Authenticate").contains(&format!("realm=\"{DOMAIN}\"")),
                "{host}"
            );
            assert_eq!(last.status(), Some(200), "{host}");
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
        let password = password("alice");
        let login = Login::new("alice", &password, &to);
        let (_, last) = login.attempt(&mut alice);
        assert_eq!(last.status(), Some(200));
        assert_eq!(last.required("From-Path"), to);
    });
}

// The deviations of clients in use: before, between and beside their messages, over TLS.
#[test]
fn what_clients_in_use_deviate_in_ends_no_connection() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let to_bob = alice.route(&bob.path());
        // A file transfer asks how much of the file has arrived already.
        let tid = alice.send_bare(Request::new("FILE_OFFSET", &to_bob, &alice.uri));
        let asked = bob.frame();
        assert!(asked.is_request("FILE_OFFSET"));
        let mut answer = String::from_utf8(asked.response("200 OK")).unwrap();
        answer.insert_str(answer.find("-------").unwrap(), "Offset: 4096\r\n");
        bob.writer.write(answer.as_bytes());
        let answer = alice.response(&tid);
        assert_eq!((answer.status(), answer.required("Offset").as_str()), (Some(200), "4096"));

        for blank in ["\r\n", "\r\n\r\n", "\r", "\n"] {
            alice.writer.write(blank.as_bytes());
            bob.writer.write(blank.as_bytes());
        }
        for tid in ["+abc", "-abc", "abc", &"x".repeat(40)] {
            let head = format!("MSRP {tid} SEND\r\nTo-Path: {to_bob}\r\nFrom-Path: {}\r\n", alice.uri);
            let rest = format!("Message-ID: {}\r\nByte-Range: 1-0/0\r\n-------{tid}$\r\n", fresh_id());
            alice.writer.write((head + &rest).as_bytes());
            assert_eq!(alice.status(tid), 200);
            bob.request("SEND");
        }
        // Only the first URI of each path is needed to answer.
        for to in
            [format!("{to_bob} sip:bob@example.com"), [to_bob.as_str(); 17].join(" "), "sip:bob".to_owned()]
        {
            let tid = alice.send_bare(Request::send(&to, &alice.uri, &fresh_id(), "1-0/0"));
            assert_eq!(alice.status(&tid), 400, "{to}");
        }
        alice.say(&bob.path(), b"Still here");
        assert_eq!(bob.request("SEND").body, b"Still here");
    });
}

#[test]
fn reason_why_a_sessions_connection_is_closed_for_its_input_is_in_the_log_once() {
    bounded(|| {
        let relay = RelayProcess::start(&Setup::default());
        let mut stranger = relay.stranger("mallory");
        stranger.writer.write(b"GET / HTTP/1.1\r\n");
        stranger.end();
        let mut alice = relay.client("alice");
        alice.writer.write(b"MSRP tid1 SEND\nTo-Path: x\n-------tid1$\n");
        alice.end();
        let said = "lines end with LF instead of CRLF";
        until("the reason", || relay.log().contains(said).then_some(()));
        let log = relay.log();
        assert_eq!(log.matches(said).count(), 1, "{log}");
        assert!(!log.contains("not an MSRP start line"), "a stranger's is for debugging: {log}");
    });
}

#[test]
fn an_unknown_session_gets_481_and_the_connection_goes_on() {
    bounded(|| {
        let relay = TestRelay::start();
        let mut alice = relay.client("alice");
        for _ in 0..3 {
            let unknown = format!("msrps://{HOST}:{}/absent;tcp {}", relay.tls.port(), alice.uri);
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
        // A stolen URI of Alice's leads nowhere but to Alice.
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
