//! A relay in this process and clients that authenticate to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use msrprelay::config::Config;
use msrprelay::proto::digest::{Algorithm, Challenge, Ha1, NonceUse};
use msrprelay::runtime::server::Server;

use crate::mariadb::DEADLINE;
use crate::schemas::DOMAIN;
use crate::support::endpoint::Endpoint;
use crate::support::frame::{Frame, Request};
use crate::support::relay::raise_descriptors;

/// A running relay; ends with the test. Its clients connect without TLS, which is not what is looked at here.
pub(crate) struct Relay {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

/// A whole config: `accounts` are keys under `auth`, `more` are further sections.
pub(crate) fn config(accounts: &str, more: &str) -> String {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    format!(
        "listen: [{{address: '127.0.0.1:0', tls: false}}]\nhostname: relay.example.test\ncores: [{cpu}]\n\
         auth: {{insecure_plain: true, {accounts}}}\n{more}\n"
    )
}

impl Relay {
    pub(crate) fn start(accounts: &str) -> Self {
        Self::with(accounts, "limits: {lookup_timeout: 60s}")
    }

    pub(crate) fn with(accounts: &str, more: &str) -> Self {
        raise_descriptors();
        let config = Config::from_yaml(&config(accounts, more), "test.yaml");
        let server = Server::start(config.unwrap_or_else(|errors| panic!("{errors}"))).unwrap();
        let (address, _) = server.addresses()[0];
        Self { server, address }
    }

    /// What somebody on a connection of his own is told.
    pub(crate) fn attempt(&self, login: &Login<'_>) -> Frame {
        login.attempt(&mut Endpoint::plain(self.address, "client"), self.address.port())
    }

    #[track_caller]
    pub(crate) fn status(&self, user: &str, password: &str) -> u16 {
        self.attempt(&Login::of(user, password)).status().unwrap()
    }

    /// A client with a session.
    #[track_caller]
    pub(crate) fn client(&self, user: &str, password: &str) -> Endpoint {
        log_in(self.address, user, password)
    }
}

/// Opens a session with a relay at this address.
#[track_caller]
pub(crate) fn log_in(address: SocketAddr, user: &str, password: &str) -> Endpoint {
    let mut endpoint = Endpoint::plain(address, user);
    let answer = Login::of(user, password).attempt(&mut endpoint, address.port());
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    endpoint.relay = Some(answer.required("Use-Path"));
    endpoint
}

/// Who logs in, and how.
#[derive(Clone, Copy)]
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) password: &'a str,
    pub(crate) algorithm: Algorithm,
}

impl<'a> Login<'a> {
    pub(crate) fn of(user: &'a str, password: &'a str) -> Self {
        Self { user, domain: DOMAIN, password, algorithm: Algorithm::Md5 }
    }

    /// Asks for a challenge and answers it; the last answer. The connection may have been challenged before.
    pub(crate) fn attempt(&self, endpoint: &mut Endpoint, port: u16) -> Frame {
        self.attempt_and_time(endpoint, port).0
    }

    /// The same, and how long the last answer took.
    pub(crate) fn attempt_and_time(&self, endpoint: &mut Endpoint, port: u16) -> (Frame, Duration) {
        endpoint.wait_for(DEADLINE);
        let to = format!("msrp://{}:{port};tcp", self.domain);
        let tid = endpoint.send_bare(Request::new("AUTH", &to, &endpoint.uri.clone()));
        let challenged = endpoint.response(&tid);
        assert_eq!(challenged.status(), Some(401), "{challenged:?}");
        let headers = challenged.head.headers(&challenged.octets);
        let challenge = headers
            .filter(|(name, _)| *name == b"WWW-Authenticate")
            .map(|(_, value)| Challenge::parse(value).unwrap())
            .find(|challenge| challenge.algorithm == self.algorithm)
            .unwrap();
        let ha1 = Ha1::new(self.algorithm, self.user, &challenge.realm, self.password);
        let answer = challenge
            .answer(self.user, &ha1, to.as_bytes(), NonceUse { nc: 1, cnonce: "0123456789abcdef" })
            .to_string();
        let request = Request::new("AUTH", &to, &endpoint.uri.clone()).header("Authorization", &answer);
        let asked = Instant::now();
        let tid = endpoint.send_bare(request);
        (endpoint.response(&tid), asked.elapsed())
    }
}

/// One short message and back: the round that a chat makes.
#[track_caller]
pub(crate) fn converse(from: &mut Endpoint, to: &mut Endpoint, words: &[u8]) {
    let tid = from.say(&to.path(), words);
    let heard = to.request("SEND");
    assert_eq!(heard.body, words);
    assert_eq!(from.status(&tid), 200);
}
