//! AUTH as a client does it: a challenge, an answer, a session.

use std::fmt::Write as _;

use msrprelay::proto::digest::{Algorithm, Challenge, Ha1, NonceUse};

use super::endpoint::Endpoint;
use super::frame::{Frame, Request};

/// The SIP domain of all accounts.
pub(crate) const DOMAIN: &str = "example.com";

/// The password that the tests' accounts are set up with.
pub(crate) fn password(user: &str) -> String {
    format!("secret of {user}")
}

/// How a client writes its credentials.
#[derive(Clone, Copy, Default)]
pub(crate) struct Style {
    /// Every parameter in quotes, also those that should not be.
    pub(crate) all_quoted: bool,
    /// Nothing behind the commas.
    pub(crate) no_space: bool,
    /// A parameter that MSRP does not have.
    pub(crate) uri: bool,
}

/// An account and where it is used.
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// To-Path of the AUTH.
    pub(crate) to: &'a str,
    /// `None`: that of the challenge.
    pub(crate) realm: Option<&'a str>,
    pub(crate) style: Style,
}

impl Login<'_> {
    /// Asks for a challenge and answers it. Returns the challenge's response and the last one.
    pub(crate) fn attempt(&self, endpoint: &mut Endpoint) -> (Frame, Frame) {
        let tid = endpoint.send_bare(Request::new("AUTH", self.to, &endpoint.uri.clone()));
        let challenge = endpoint.response(&tid);
        assert_eq!(challenge.status(), Some(401), "{challenge:?}");
        let answer = self.answer(&challenge.required("WWW-Authenticate"));
        let request = Request::new("AUTH", self.to, &endpoint.uri.clone()).header("Authorization", &answer);
        let tid = endpoint.send_bare(request);
        let last = endpoint.response(&tid);
        (challenge, last)
    }

    /// The value of Authorization that answers a challenge.
    pub(crate) fn answer(&self, challenge: &str) -> String {
        let challenge = Challenge::parse(challenge.as_bytes()).unwrap();
        let realm = self.realm.unwrap_or(&challenge.realm);
        let ha1 = Ha1::new(Algorithm::Md5, self.user, realm, self.password);
        // Through other relays, the last one is who asks.
        let target = self.to.rsplit(' ').next().unwrap_or_default();
        let digest = challenge.answer(
            self.user,
            &ha1,
            target.as_bytes(),
            NonceUse { nc: 1, cnonce: "0123456789abcdef" },
        );
        let mut parameters = vec![
            ("username", self.user, true),
            ("realm", realm, true),
            ("nonce", &challenge.nonce, true),
            ("response", &digest.response, true),
            ("opaque", challenge.opaque.as_deref().unwrap_or_default(), true),
            ("cnonce", "0123456789abcdef", true),
            ("qop", "auth", false),
            ("nc", "00000001", false),
            ("algorithm", "MD5", false),
        ];
        if self.style.uri {
            parameters.push(("uri", self.to, true));
        }
        let mut value = "Digest ".to_owned();
        for (n, (name, text, quoted)) in parameters.into_iter().enumerate() {
            let separator = match (n, self.style.no_space) {
                (0, _) => "",
                (_, true) => ",",
                (_, false) => ", ",
            };
            let quote = if quoted || self.style.all_quoted { "\"" } else { "" };
            write!(value, "{separator}{name}={quote}{text}{quote}").unwrap();
        }
        value
    }
}

impl Endpoint {
    /// Opens a session with the user's own password.
    pub(crate) fn log_in(mut self, user: &str, port: u16) -> Self {
        let login = Login {
            user,
            password: &password(user),
            to: &format!("msrps://{DOMAIN}:{port};tcp"),
            realm: None,
            style: Style::default(),
        };
        let (_, last) = login.attempt(&mut self);
        assert_eq!(last.status(), Some(200), "{last:?}");
        self.relay = Some(last.required("Use-Path"));
        self
    }
}
