//! AUTH as a client does it: a challenge, an answer, a session.

use std::fmt::Write as _;

use msrp_proto::digest::{Algorithm, Challenge, Ha1, NonceUse};

use crate::endpoint::Endpoint;
use crate::frame::{Frame, Request};

/// The SIP domain of all accounts.
pub const DOMAIN: &str = "example.com";

/// The password that the tests' accounts are set up with.
pub fn password(user: &str) -> String {
    format!("secret of {user}")
}

/// How a client writes its credentials.
#[derive(Clone, Copy, Default)]
pub struct Style {
    /// Every parameter in quotes, also those that should not be.
    pub all_quoted: bool,
    /// No space after the commas.
    pub no_space: bool,
    /// A parameter that MSRP does not have.
    pub uri: bool,
}

/// An account and where it is used.
pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a str,
    /// To-Path of the AUTH.
    pub to: &'a str,
    /// `None`: the challenge's realm.
    pub realm: Option<&'a str>,
    pub algorithm: Algorithm,
    pub style: Style,
}

impl<'a> Login<'a> {
    /// In the realm of the challenge, with MD5.
    pub fn new(user: &'a str, password: &'a str, to: &'a str) -> Self {
        Self { user, password, to, realm: None, algorithm: Algorithm::Md5, style: Style::default() }
    }
}

impl Login<'_> {
    /// Asks for a challenge and answers it. Returns the challenge's response and the last one.
    pub fn attempt(&self, endpoint: &mut Endpoint) -> (Frame, Frame) {
        let challenge = self.challenged(endpoint);
        let last = self.respond(endpoint, &challenge);
        (challenge, last)
    }

    /// The first round: the 401.
    pub fn challenged(&self, endpoint: &mut Endpoint) -> Frame {
        let tid = endpoint.send_bare(Request::new("AUTH", self.to, &endpoint.uri.clone()));
        let challenge = endpoint.response(&tid);
        assert_eq!(challenge.status(), Some(401), "{challenge:?}");
        challenge
    }

    /// The second round: what comes of the answer to the challenge in this 401.
    pub fn respond(&self, endpoint: &mut Endpoint, refusal: &Frame) -> Frame {
        let answer = self.answer(&self.challenge(refusal));
        let request = Request::new("AUTH", self.to, &endpoint.uri.clone()).header("Authorization", &answer);
        let tid = endpoint.send_bare(request);
        endpoint.response(&tid)
    }

    /// The challenge of this algorithm in a 401.
    fn challenge(&self, refusal: &Frame) -> String {
        let of_this = |value: &&[u8]| Challenge::parse(value).unwrap().algorithm == self.algorithm;
        let headers = refusal.head.headers(&refusal.bytes);
        let mut values = headers.filter(|(name, _)| *name == b"WWW-Authenticate").map(|(_, value)| value);
        let found = values.find(of_this);
        String::from_utf8(found.unwrap_or_else(|| panic!("no such challenge: {refusal:?}")).to_vec()).unwrap()
    }

    /// The value of Authorization that answers a challenge.
    pub fn answer(&self, challenge: &str) -> String {
        let challenge = Challenge::parse(challenge.as_bytes()).unwrap();
        let realm = self.realm.unwrap_or(&challenge.realm);
        let ha1 = Ha1::new(self.algorithm, self.user, realm, self.password);
        // Through other relays, the last one asks.
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
            ("algorithm", self.algorithm.as_str(), false),
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
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            write!(value, "{separator}{name}={quote}{text}{quote}").unwrap();
        }
        value
    }
}

impl Endpoint {
    /// Opens a session, which must succeed.
    #[track_caller]
    pub fn open_session(&mut self, login: &Login<'_>) {
        let (_, last) = login.attempt(self);
        assert_eq!(last.status(), Some(200), "{last:?}");
        self.relay = Some(last.required("Use-Path"));
    }

    /// Opens a session with the user's own password.
    pub fn log_in(mut self, user: &str, port: u16) -> Self {
        let (password, to) = (password(user), format!("msrps://{DOMAIN}:{port};tcp"));
        self.open_session(&Login::new(user, &password, &to));
        self
    }
}
