//! Asks a relay for a URI: AUTH, the challenge, the answer, Use-Path (RFC 4976, 5.1, 9.1 and 9.2). Asks the first relay
//! directly, and each further one through those that have granted their URIs.
//!
//! Invariants: a password goes into a hash and nowhere else; the digest covers the exact bytes of the rightmost URI of
//! the To-Path that is sent; if a relay proves that it knows the password too (`rspauth`), a wrong proof ends the
//! attempt. Of several challenges the one with the strongest algorithm is answered. After a refusal, the client tries
//! once more only if the relay calls the nonce stale. A Use-Path must begin with the relays it came through, or it is
//! refused: requests would go a way that the client has not chosen.

use std::fmt;
use std::time::{Duration, Instant};

use super::answer;
use super::endpoint::{Endpoint, Frame};
use super::ledger::words;
use super::transport::within;
use super::{ClientError, Stage, random_token};
use msrp_proto::digest::{Algorithm, AuthenticationInfo, Authorization, Challenge, Ha1, NonceUse};
use msrp_proto::head::Kind;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;
use msrp_proto::write::FrameWriter;
use untrusted::text;

/// The user who asks.
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
    /// The relay, as the last URI of To-Path: `msrps://relay.example.com:2855;tcp`; for the first relay also with the SIP
    /// domain for a host and without a port.
    pub uri: String,
    /// For how many seconds the client wants the URI. `None` leaves it to the relay: then the URI lives as long as the
    /// connection.
    pub expires: Option<u64>,
    /// Names the To-Path in the credentials, too. RFC 4976 has no `uri` there, but some relays, whose digest
    /// authentication is that of SIP, refuse credentials without one.
    pub digest_uri: bool,
    /// How long each answer may take.
    pub limit: Duration,
}

impl AuthOptions {
    /// The value of the header Authorization.
    pub fn credentials(&self, authorization: &Authorization<'_>) -> String {
        match self.digest_uri {
            true => format!("{authorization}, uri=\"{}\"", self.uri),
            false => authorization.to_string(),
        }
    }
}

/// What the relay granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The URIs of Use-Path, nearest relay first: every To-Path begins with them.
    pub use_path: Vec<String>,
    /// Our own URI, the end of the path that peers use.
    pub own_uri: String,
    /// For how many seconds, as the relay says.
    pub expires: Option<u64>,
    /// The realm of the challenge; `None` without a challenge.
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

/// Authenticates to the relay at the other end of the connection and fetches a URI.
///
/// # Errors
/// [`ClientError::AuthRefused`], [`ClientError::AuthAnswer`], [`ClientError::NoAuthAnswer`], and those of the connection.
pub async fn authenticate(
    endpoint: &mut Endpoint,
    credentials: &Credentials,
    options: &AuthOptions,
) -> Result<Grant, ClientError> {
    Attempt { credentials, options, nearer: &[] }.make(endpoint).await
}

/// Authenticates to a relay beyond the first one, through those that have granted URIs already (RFC 4976, 5.1). The
/// grant is for the whole way.
///
/// # Errors
/// As [`authenticate`]; [`ClientError::AuthRefused`] names the relay in between that answered, if one did.
pub async fn authenticate_through(
    endpoint: &mut Endpoint,
    nearer: &Grant,
    credentials: &Credentials,
    options: &AuthOptions,
) -> Result<Grant, ClientError> {
    Attempt { credentials, options, nearer: &nearer.use_path }.make(endpoint).await
}

/// One relay asked for its URI.
struct Attempt<'a> {
    credentials: &'a Credentials,
    options: &'a AuthOptions,
    /// The relays in between, nearest first; none for the first relay.
    nearer: &'a [String],
}

impl Attempt<'_> {
    async fn make(&self, endpoint: &mut Endpoint) -> Result<Grant, ClientError> {
        let uri = self.options.uri.as_bytes();
        let began = Instant::now();
        let mut answer = self.exchange(endpoint, None).await?;
        let challenge_took = began.elapsed();
        if answer.is(Status::OK) {
            return answer.grant(endpoint, challenge_took, Duration::ZERO);
        }
        for attempt in 1..=2 {
            let (challenge, ha1) = answer.challenge()?;
            let cnonce = random_token(16);
            let authorization =
                challenge.answer(&self.credentials.user, &ha1, uri, NonceUse { nc: 1, cnonce: &cnonce });
            let answered = Instant::now();
            let credentials = self.options.credentials(&authorization);
            let next = self.exchange(endpoint, Some(credentials)).await?;
            if next.is(Status::OK) {
                let proved = next.check_proof(authorization.rspauth(&ha1, uri).as_str())?;
                let grant = next.grant(endpoint, challenge_took, answered.elapsed())?;
                let (realm, algorithm) =
                    (Some(challenge.realm.clone().into_owned()), Some(challenge.algorithm));
                return Ok(Grant { realm, algorithm, proved, ..grant });
            }
            let stale = next.is(Status::UNAUTHORIZED) && next.challenge().is_ok_and(|(next, _)| next.stale);
            if attempt == 2 || !stale {
                return Err(next.refusal());
            }
            answer = next;
        }
        Err(answer.refusal())
    }

    /// Sends one AUTH and waits for the response to it.
    async fn exchange(
        &self,
        endpoint: &mut Endpoint,
        authorization: Option<String>,
    ) -> Result<Answer<'_>, ClientError> {
        let tid = random_token(12);
        let relays = self.nearer.iter().chain([&self.options.uri]);
        let to_path = relays.map(String::as_str).collect::<Vec<_>>().join(" ");
        let mut frame = Vec::with_capacity(1024);
        let mut writer = FrameWriter::request(&mut frame, tid.as_bytes(), "AUTH")
            .header("To-Path", to_path.as_bytes())
            .header("From-Path", endpoint.own_uri().as_bytes());
        if let Some(authorization) = &authorization {
            writer = writer.header("Authorization", authorization.as_bytes());
            if let Some(expires) = self.options.expires {
                writer = writer.header_fmt("Expires", format_args!("{expires}"));
            }
        }
        writer.end(Flag::Last);
        endpoint.outgoing.send(&frame).await?;
        let limit = self.options.limit;
        match within(limit, Stage::Authenticating, response_to(endpoint, tid.as_bytes())).await {
            Some(answer) => answer.map(|(status, frame)| Answer { attempt: self, status, frame }),
            None => Err(ClientError::NoAuthAnswer { relay: self.relay(), seconds: limit.as_secs() }),
        }
    }

    /// The relay that is asked, in words.
    fn relay(&self) -> String {
        authority(self.options.uri.as_bytes())
    }
}

/// Host and port of a URI, or whatever it is.
fn authority(uri: &[u8]) -> String {
    let whole = || String::from_utf8_lossy(uri).into_owned();
    MsrpUri::parse(uri).map_or_else(
        |_| whole(),
        |parsed| {
            let (open, close) = if parsed.host_str().contains(':') { ("[", "]") } else { ("", "") };
            let port = parsed.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{open}{}{close}{port}", parsed.host_str())
        },
    )
}

fn same_uri(a: &[u8], b: &[u8]) -> bool {
    matches!((MsrpUri::parse(a), MsrpUri::parse(b)), (Ok(a), Ok(b)) if a.same_as(&b))
}

async fn response_to(endpoint: &mut Endpoint, tid: &[u8]) -> Result<(Status, Frame), ClientError> {
    loop {
        let Some(frame) = endpoint.incoming.next_frame(0).await? else {
            // A TLS server may also say nothing to a client without TLS.
            let plain =
                if endpoint.tls().is_none() { " (if that port speaks TLS: without --plain)" } else { "" };
            return Err(ClientError::ConnectionLost(format!("before AUTH was answered{plain}")));
        };
        match frame.head.kind() {
            Kind::Response(status) if frame.head.tid(&frame.bytes) == tid => {
                return Ok((status, frame));
            }
            _ => {}
        }
    }
}

/// The response to an AUTH.
struct Answer<'a> {
    attempt: &'a Attempt<'a>,
    status: Status,
    frame: Frame,
}

impl Answer<'_> {
    fn is(&self, status: Status) -> bool {
        self.status == status
    }

    /// The strongest challenge we can answer, with the HA1 for it.
    fn challenge(&self) -> Result<(Challenge<'_>, Ha1), ClientError> {
        if !self.is(Status::UNAUTHORIZED) {
            return Err(self.refusal());
        }
        let offered = self.frame.head.headers(&self.frame.bytes);
        let challenge = offered
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"WWW-Authenticate"))
            .filter_map(|(_, value)| Challenge::parse(value).ok())
            .max_by_key(|challenge| challenge.algorithm)
            .ok_or_else(|| self.unusable("401 without a challenge that can be answered"))?;
        let Credentials { user, password } = self.attempt.credentials;
        let ha1 = Ha1::new(challenge.algorithm, user, &challenge.realm, password);
        Ok((challenge, ha1))
    }

    /// Whether the relay proved itself. A missing proof is accepted, a wrong one is not.
    fn check_proof(&self, expected: &str) -> Result<bool, ClientError> {
        let Some(value) = self.frame.head.authentication_info(&self.frame.bytes) else {
            return Ok(false);
        };
        let Ok(info) = AuthenticationInfo::parse(value) else {
            return Ok(false);
        };
        match info.rspauth.eq_ignore_ascii_case(expected) {
            true => Ok(true),
            false => Err(self.unusable("it does not know the password itself (rspauth is wrong)")),
        }
    }

    fn grant(
        &self,
        endpoint: &Endpoint,
        challenge_took: Duration,
        answer_took: Duration,
    ) -> Result<Grant, ClientError> {
        Ok(Grant {
            use_path: self.use_path()?,
            own_uri: endpoint.own_uri().to_owned(),
            expires: self.frame.head.expires(),
            realm: None,
            algorithm: None,
            proved: false,
            challenge_took,
            answer_took,
        })
    }

    /// The relays to use, nearest first: those in between, then the one that was asked.
    fn use_path(&self) -> Result<Vec<String>, ClientError> {
        let unusable = || self.unusable("200 without a usable Use-Path");
        let use_path = self.frame.head.use_path(&self.frame.bytes).ok_or_else(unusable)?;
        let mut uris = Vec::new();
        for uri in use_path.uris() {
            MsrpUri::parse(uri).map_err(|_| unusable())?;
            uris.push(String::from_utf8(uri.to_vec()).map_err(|_| unusable())?);
        }
        let nearer = self.attempt.nearer;
        if !nearer.iter().zip(&uris).all(|(ours, theirs)| same_uri(ours.as_bytes(), theirs.as_bytes())) {
            return Err(self.unusable("its Use-Path does not begin with the relays that lead there"));
        }
        if uris.is_empty() {
            return Err(unusable());
        }
        if uris.len() <= nearer.len() {
            return Err(self.unusable("its Use-Path has no URI of its own behind the relays that lead there"));
        }
        Ok(uris)
    }

    fn refusal(&self) -> ClientError {
        let (head, bytes) = (&self.frame.head, &self.frame.bytes);
        let by = self.relay_in_between();
        let challenge = self.is(Status::UNAUTHORIZED).then(|| self.challenge().ok()).flatten();
        let realm = challenge.map(|(challenge, _)| Box::from(&*challenge.realm));
        let hint = match (self.status, head.min_expires(), head.max_expires()) {
            (Status::TIMEOUT, ..) if by.is_some() => " (it cannot be reached from there)".to_owned(),
            (Status::FORBIDDEN, ..) if by.is_none() => {
                self.attempt.nearer.last().map_or_else(String::new, |last| {
                    format!(" (perhaps it does not accept {} as a relay)", authority(last.as_bytes()))
                })
            }
            (Status::UNAUTHORIZED, ..) => match &realm {
                Some(realm) => format!(" (wrong user or password; its realm is {})", text::shown(realm)),
                None => " (wrong user, password or realm)".to_owned(),
            },
            (Status::OUT_OF_BOUNDS, Some(min), _) => format!(" (Expires must be at least {min} s)"),
            (Status::OUT_OF_BOUNDS, _, Some(max)) => format!(" (Expires must be at most {max} s)"),
            _ => String::new(),
        };
        let comment = words(self.status, &answer::comment(head, bytes));
        ClientError::AuthRefused {
            relay: self.attempt.relay(),
            by,
            status: self.status,
            comment,
            realm,
            hint,
        }
    }

    /// The relay in between that has answered, if one did. From-Path of a response begins with the relays it came
    /// through and ends with its author.
    fn relay_in_between(&self) -> Option<String> {
        let author = self.frame.head.from_path(&self.frame.bytes).last()?;
        let between = self.attempt.nearer.iter().find(|uri| same_uri(uri.as_bytes(), author))?;
        Some(authority(between.as_bytes()))
    }

    fn unusable(&self, reason: &str) -> ClientError {
        ClientError::AuthAnswer { relay: self.attempt.relay(), reason: reason.to_owned() }
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
