//! A relay in this process without TLS, and clients that authenticate to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use msrp_proto::digest::Algorithm;
use msrprelay::config::Config;
use msrprelay::runtime::server::Server;
use testkit_net::PATIENCE;
use testkit_net::account::{DOMAIN, Login};
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::Frame;
use testkit_net::relay::raise_descriptors;

/// A running relay; ends with the test. Its clients connect without TLS, which these tests are not about.
pub(crate) struct PlainRelay {
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

impl PlainRelay {
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

    /// The answer to a client on a connection of its own.
    pub(crate) fn attempt(&self, account: &Account<'_>) -> Frame {
        account.attempt(&mut Endpoint::plain(self.address, "client"), self.address.port())
    }

    #[track_caller]
    pub(crate) fn status(&self, user: &str, password: &str) -> u16 {
        self.attempt(&Account::of(user, password)).status().unwrap()
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
    let answer = Account::of(user, password).attempt(&mut endpoint, address.port());
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    endpoint.relay = Some(answer.required("Use-Path"));
    endpoint
}

/// Who logs in, and how.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) user: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) password: &'a str,
    pub(crate) algorithm: Algorithm,
}

impl<'a> Account<'a> {
    pub(crate) fn of(user: &'a str, password: &'a str) -> Self {
        Self { user, domain: DOMAIN, password, algorithm: Algorithm::Md5 }
    }

    /// Asks for a challenge and answers it; the last answer. The connection may have been challenged before.
    pub(crate) fn attempt(&self, endpoint: &mut Endpoint, port: u16) -> Frame {
        self.attempt_and_time(endpoint, port).0
    }

    /// The same, and how long the last answer took.
    pub(crate) fn attempt_and_time(&self, endpoint: &mut Endpoint, port: u16) -> (Frame, Duration) {
        endpoint.wait_for(PATIENCE);
        let to = format!("msrp://{}:{port};tcp", self.domain);
        let login = Login { algorithm: self.algorithm, ..Login::new(self.user, self.password, &to) };
        let challenge = login.challenged(endpoint);
        let asked = Instant::now();
        (login.respond(endpoint, &challenge), asked.elapsed())
    }
}
