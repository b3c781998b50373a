//! Asking a relay for a URI: AUTH, the challenge, the answer, Use-Path (RFC 4976, 5.1, 9.1 and 9.2).
//!
//! Invariants: a password goes into a hash and nowhere else; the digest covers the very octets of the To-Path that is
//! sent; where a relay proves that it knows the password too (`rspauth`), a wrong proof ends the attempt. Of several
//! challenges the strongest algorithm is answered. A refused answer is tried once more only if the relay calls the nonce
//! stale.

use std::fmt;
use std::time::{Duration, Instant};

use super::answer;
use super::endpoint::{Endpoint, Frame};
use super::ledger::words;
use super::transport::within;
use super::{ClientError, random_token};
use crate::proto::digest::{Algorithm, AuthenticationInfo, Challenge, Ha1};
use crate::proto::head::Kind;
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::uri::MsrpUri;
use crate::proto::write::FrameWriter;

/// Who asks.
#[derive(Clone)]
pub struct Credentials {
    /// The name as the relay's realm knows it: `alice`, without the domain.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How to ask.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// The To-Path: `msrps://relay.example.com:2855;tcp`, or with the SIP domain for a host and without a port.
    pub uri: String,
    /// For how many seconds the URI is wanted; `None` leaves it to the relay, and then it lives as long as the connection.
    pub expires: Option<u64>,
    /// Name the To-Path in the credentials, too: there is no `uri` in RFC 4976's, but some relays, whose digest
    /// authentication is that of SIP, refuse credentials without one.
    pub digest_uri: bool,
    /// How long each answer may take.
    pub limit: Duration,
}

/// What the relay gave.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The URIs of Use-Path, nearest relay first: the front of To-Path for everything that is sent.
    pub use_path: Vec<String>,
    /// Our own URI, the end of the path that peers use.
    pub own_uri: String,
    /// For how many seconds, as the relay says.
    pub expires: Option<u64>,
    /// The realm of the challenge; `None` where there was none.
    pub realm: Option<String>,
    /// The algorithm that was used.
    pub algorithm: Option<Algorithm>,
    /// Whether the relay has proved that it knows the password.
    pub proved: bool,
    /// From the first AUTH to the challenge.
    pub challenge_took: Duration,
    /// From the answer to the grant.
    pub answer_took: Duration,
}

impl Grant {
    /// The path peers send to: Use-Path reversed, then our URI (RFC 4976, 5.1).
    pub fn path_for_peers(&self) -> String {
        let relays = self.use_path.iter().rev();
        relays.chain([&self.own_uri]).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The To-Path of what is sent to a peer: our relays, then the peer's path.
    pub fn to_path(&self, peer_path: &str) -> String {
        self.use_path.iter().map(String::as_str).chain([peer_path]).collect::<Vec<_>>().join(" ")
    }
}

/// Authenticates and fetches a URI.
///
/// # Errors
/// [`ClientError::AuthRefused`], [`ClientError::AuthAnswer`], [`ClientError::TimedOut`], and those of the connection.
pub async fn authenticate(
    endpoint: &mut Endpoint,
    credentials: &Credentials,
    options: &AuthOptions,
) -> Result<Grant, ClientError> {
    let began = Instant::now();
    let mut answer = exchange(endpoint, options, None).await?;
    let challenge_took = began.elapsed();
    if answer.is(Status::OK) {
        return answer.grant(endpoint, challenge_took, Duration::ZERO);
    }
    for attempt in 1..=2 {
        let (challenge, ha1) = answer.challenge(credentials)?;
        let cnonce = random_token(16);
        let authorization = challenge.answer(&credentials.user, &ha1, options.uri.as_bytes(), 1, &cnonce);
        let answered = Instant::now();
        let mut credentials_text = authorization.to_string();
        if options.digest_uri {
            credentials_text.push_str(&format!(", uri=\"{}\"", options.uri));
        }
        let next = exchange(endpoint, options, Some(credentials_text)).await?;
        if next.is(Status::OK) {
            let proved = next.check_proof(authorization.rspauth(&ha1, options.uri.as_bytes()).as_str())?;
            let grant = next.grant(endpoint, challenge_took, answered.elapsed())?;
            let (realm, algorithm) = (Some(challenge.realm.clone().into_owned()), Some(challenge.algorithm));
            return Ok(Grant { realm, algorithm, proved, ..grant });
        }
        let stale =
            next.is(Status::UNAUTHORIZED) && next.challenge(credentials).is_ok_and(|(next, _)| next.stale);
        if attempt == 2 || !stale {
            return Err(next.refusal());
        }
        answer = next;
    }
    Err(answer.refusal())
}

/// Sends one AUTH and waits for the response to it.
async fn exchange(
    endpoint: &mut Endpoint,
    options: &AuthOptions,
    authorization: Option<String>,
) -> Result<Answer, ClientError> {
    let tid = random_token(12);
    let mut frame = Vec::with_capacity(1024);
    let mut writer = FrameWriter::request(&mut frame, tid.as_bytes(), "AUTH")
        .header("To-Path", options.uri.as_bytes())
        .header("From-Path", endpoint.own_uri().as_bytes());
    if let Some(authorization) = &authorization {
        writer = writer.header("Authorization", authorization.as_bytes());
        if let Some(expires) = options.expires {
            writer = writer.header_fmt("Expires", format_args!("{expires}"));
        }
    }
    writer.end(Flag::Last);
    endpoint.outgoing.send(&frame).await?;
    let answer = within(options.limit, response_to(endpoint, tid.as_bytes())).await;
    answer
        .unwrap_or(Err(ClientError::TimedOut { what: "no answer to AUTH", seconds: options.limit.as_secs() }))
}

async fn response_to(endpoint: &mut Endpoint, tid: &[u8]) -> Result<Answer, ClientError> {
    loop {
        let Some(frame) = endpoint.incoming.next_frame(0).await? else {
            return Err(ClientError::ConnectionLost("before AUTH was answered".to_owned()));
        };
        match frame.head.kind() {
            Kind::Response(status) if frame.head.tid(&frame.octets) == tid => {
                return Ok(Answer { status, frame });
            }
            _ => {}
        }
    }
}

/// The response to an AUTH.
struct Answer {
    status: Status,
    frame: Frame,
}

impl Answer {
    fn is(&self, status: Status) -> bool {
        self.status == status
    }

    /// The strongest challenge we can answer, with the HA1 for it.
    fn challenge(&self, credentials: &Credentials) -> Result<(Challenge<'_>, Ha1), ClientError> {
        if !self.is(Status::UNAUTHORIZED) {
            return Err(self.refusal());
        }
        let offered = self.frame.head.headers(&self.frame.octets);
        let challenge = offered
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"WWW-Authenticate"))
            .filter_map(|(_, value)| Challenge::parse(value).ok())
            .max_by_key(|challenge| challenge.algorithm);
        let challenge = challenge.ok_or_else(|| {
            ClientError::AuthAnswer("401 without a challenge that can be answered".to_owned())
        })?;
        let ha1 = Ha1::new(challenge.algorithm, &credentials.user, &challenge.realm, &credentials.password);
        Ok((challenge, ha1))
    }

    /// Whether the relay proved itself; no proof is accepted, a wrong one is not.
    fn check_proof(&self, expected: &str) -> Result<bool, ClientError> {
        let Some(value) = self.frame.head.authentication_info(&self.frame.octets) else {
            return Ok(false);
        };
        let Ok(info) = AuthenticationInfo::parse(value) else {
            return Ok(false);
        };
        match info.rspauth.eq_ignore_ascii_case(expected) {
            true => Ok(true),
            false => Err(ClientError::AuthAnswer(
                "it does not know the password itself (rspauth is wrong)".to_owned(),
            )),
        }
    }

    fn grant(
        &self,
        endpoint: &Endpoint,
        challenge_took: Duration,
        answer_took: Duration,
    ) -> Result<Grant, ClientError> {
        let unusable = || ClientError::AuthAnswer("200 without a usable Use-Path".to_owned());
        let use_path = self.frame.head.use_path(&self.frame.octets).ok_or_else(unusable)?;
        let mut uris = Vec::new();
        for uri in use_path.uris() {
            MsrpUri::parse(uri).map_err(|_| unusable())?;
            uris.push(String::from_utf8(uri.to_vec()).map_err(|_| unusable())?);
        }
        if uris.is_empty() {
            return Err(unusable());
        }
        Ok(Grant {
            use_path: uris,
            own_uri: endpoint.own_uri().to_owned(),
            expires: self.frame.head.expires(),
            realm: None,
            algorithm: None,
            proved: false,
            challenge_took,
            answer_took,
        })
    }

    fn refusal(&self) -> ClientError {
        let head = &self.frame.head;
        let hint = match (self.status, head.min_expires(), head.max_expires()) {
            (Status::UNAUTHORIZED, ..) => " (wrong user, password or realm)".to_owned(),
            (Status::OUT_OF_BOUNDS, Some(min), _) => format!(" (Expires must be at least {min} s)"),
            (Status::OUT_OF_BOUNDS, _, Some(max)) => format!(" (Expires must be at most {max} s)"),
            _ => String::new(),
        };
        let comment = words(self.status, &answer::comment(head, &self.frame.octets));
        ClientError::AuthRefused { status: self.status, comment, hint }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn grant(use_path: &[&str]) -> Grant {
        Grant {
            use_path: use_path.iter().map(|uri| (*uri).to_owned()).collect(),
            own_uri: "msrps://w:1/w;tcp".to_owned(),
            expires: None,
            realm: None,
            algorithm: None,
            proved: false,
            challenge_took: Duration::ZERO,
            answer_took: Duration::ZERO,
        }
    }

    #[test]
    fn peers_see_the_relays_in_reverse() {
        let grant = grant(&["msrps://r1:1/a;tcp", "msrps://r2:1/b;tcp"]);
        assert_eq!(grant.path_for_peers(), "msrps://r2:1/b;tcp msrps://r1:1/a;tcp msrps://w:1/w;tcp");
        assert_eq!(
            grant.to_path("msrps://x:1/x;tcp"),
            "msrps://r1:1/a;tcp msrps://r2:1/b;tcp msrps://x:1/x;tcp"
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        let credentials = Credentials { user: "alice".to_owned(), password: "hunter2".to_owned() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
