//! AUTH with this relay as its target: challenge, look-up, check, a session (RFC 4976, 5.1, 6.3, 9.1).
//!
//! Invariants: a session is opened with a [`Verified`] only; nonces
//! belong to the connection that asked for them and their count strictly rises; an unknown user and
//! a wrong password cost the same work and get the same answer; accounts that cannot be asked never
//! look like a wrong password.
//!
//! Here is what is judged before and after the look-up; what follows when all is right is in `admit`; who asks through
//! another relay is in `behind`.
//!
//! While a look-up is under way nothing more is read from a client's connection: AUTHs are not pipelined. A connection
//! with a relay is read on: the others behind that relay do not wait.

mod admit;
mod behind;

use std::sync::Arc;
use std::time::Instant;

use super::admission::{Offence, Tally, UserKey, Who};
use super::ids::{Entropy, LookUpTicket, PeerKey, SessionKey, UriId};
use super::limit::Limit;
use super::message::Transit;
use super::newcomers::Stage;
use super::peer::{Peer, Role, response_to_path};
use super::view::authority_of_first;
use super::{CloseReason, Effect, Effects, Event, LookUpAnswer, Relay, Settings};
use msrp_proto::digest::{
    Algorithm, Attempt, Authorization, AuthorizationError, Challenge, Ha1, Verified, check,
};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, host_matches};
use msrp_proto::write::FrameWriter;

pub(crate) use behind::Behind;
use behind::{Client, is_through_relay};

/// URIs one session may have at a time: the present one and the one it replaces (RFC 4976, 9.4).
const URIS_PER_SESSION_MAX: usize = 2;

/// Characters that are kept of a name which nobody has vouched for. It is for the log, which shows as many.
const TRIED_CHARS_MAX: usize = 64;

/// What a client has to do with authentication.
#[derive(Debug)]
pub(crate) struct AuthState {
    /// The challenge that is out.
    challenge: Option<Nonce>,
    /// What the last 200 named as its successor; lives as long as the session.
    next: Option<Nonce>,
    opaque: String,
    failures: u32,
    ticket: u32,
    waiting: Option<Waiting>,
    /// An AUTH in order, whose user may have too many sessions.
    claim: Option<Box<Claim>>,
    /// The user that this connection belongs to.
    user: Option<Arc<Verified>>,
    /// Whose password was tried in vain: the beginning of the name.
    tried: Option<Box<str>>,
}

#[derive(Debug)]
struct Nonce {
    text: String,
    expires: Option<Instant>,
    /// The highest count seen; the next must be higher.
    count: u32,
}

/// An AUTH whose user is being looked up.
#[derive(Clone, Debug)]
struct Waiting {
    ticket: u32,
    transit: Transit,
    stale: bool,
    /// The URI that it prolongs, and whose session that is; `None`: it asks for a new URI.
    refreshes: Option<(SessionKey, UriId)>,
    algorithm: Algorithm,
}

/// An AUTH that has been checked and needs a place among its user's sessions.
#[derive(Debug)]
struct Claim {
    waiting: Waiting,
    verified: Verified,
    ha1: Ha1,
    granted: Granted,
}

impl AuthState {
    fn new(entropy: &mut Entropy) -> Self {
        Self {
            challenge: None,
            next: None,
            opaque: entropy.nonce(),
            failures: 0,
            ticket: 0,
            waiting: None,
            claim: None,
            user: None,
            tried: None,
        }
    }

    /// Whose sessions these are.
    pub(crate) fn verified(&self) -> Option<&Verified> {
        self.user.as_deref()
    }

    /// Whose connection it is, or claimed to be, for the log.
    pub(crate) fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.username()).or(self.tried.as_deref())
    }

    /// Bytes of memory that the AUTH takes which is being looked up.
    pub(crate) fn kept(&self) -> usize {
        let waiting = self.waiting.as_ref().or_else(|| self.claim.as_deref().map(|claim| &claim.waiting));
        waiting.map_or(0, |waiting| waiting.transit.cost())
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some() || self.claim.is_some()
    }

    /// Takes a nonce's next use. `None`: never ours, or a replay; else whether it is stale.
    fn use_nonce(&mut self, text: &str, count: u32, now: Instant) -> Option<bool> {
        let nonce = [&mut self.challenge, &mut self.next].into_iter().flatten().find(|n| n.text == text)?;
        if count <= nonce.count {
            return None;
        }
        nonce.count = count;
        Some(nonce.expires.is_some_and(|at| at <= now))
    }
}

impl Nonce {
    fn new(entropy: &mut Entropy, expires: Option<Instant>) -> Self {
        Self { text: entropy.nonce(), expires, count: 0 }
    }
}

/// What to do with an AUTH that cannot succeed.
enum Refusal {
    /// An error response; nothing else.
    Respond(Status, &'static str),
    /// A fresh challenge, because there were no credentials.
    Challenge,
    /// A fresh challenge, because there were wrong ones: counted.
    Wrong(&'static str),
    /// An error response, counted.
    Malformed(&'static str),
    /// The answer, then the end of the connection.
    RespondAndClose(Status, CloseReason),
    /// The end of the connection.
    Close(CloseReason),
}

impl Relay {
    /// A complete AUTH whose To-Path is one URI.
    pub(crate) fn on_auth(&mut self, key: PeerKey, transit: Transit, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.advance(Stage::Asking, &mut self.core);
        if peer.auth.is_none() && !is_through_relay(&transit) {
            peer.auth = Some(Box::new(AuthState::new(&mut self.core.entropy)));
        }
        match self.judge(key, &transit, fx) {
            Ok(waiting) => {
                if let Some(auth) = self.peers.get_mut(key).and_then(|peer| peer.applicant(&transit)) {
                    auth.waiting = Some(waiting);
                }
            }
            Err(refusal) => self.refuse_auth(key, &transit, &refusal, fx),
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.update_pause(&mut self.core, fx);
        }
    }

    /// Everything that can be judged without the accounts, so that a bad request costs no look-up.
    fn judge(&mut self, key: PeerKey, transit: &Transit, fx: &mut Effects) -> Result<Waiting, Refusal> {
        let settings = &self.core.settings;
        let peer = self.peers.get_mut(key).ok_or(Refusal::Close(CloseReason::Misaddressed))?;
        if !peer.transport.secure && !settings.insecure_plain {
            return Err(Refusal::RespondAndClose(Status::FORBIDDEN, CloseReason::AuthWithoutTls));
        }
        let uri = transit.to_path().last().and_then(|uri| MsrpUri::parse(uri).ok());
        let uri = uri.ok_or(Refusal::Respond(Status::BAD_REQUEST, "To-Path is not a URI"))?;
        if !settings.answers_to(&uri) {
            return Err(Refusal::Close(CloseReason::Misaddressed));
        }
        if peer.applicant(transit).is_some_and(|auth| auth.is_waiting()) {
            return Err(Refusal::Respond(Status::BAD_REQUEST, "pipelined AUTH"));
        }
        let through_relay = is_through_relay(transit);
        let own = match &peer.role {
            _ if through_relay => behind::meet(peer, transit, &self.sessions, &mut self.core)?.to_vec(),
            Role::Foreign if peer.bound.is_empty() && peer.behind.is_none() => Vec::new(),
            Role::Client { sessions } => sessions.clone(),
            _ => {
                return Err(Refusal::Respond(Status::FORBIDDEN, "AUTH on a connection in other use"));
            }
        };
        let settings = &self.core.settings;
        if self.core.draining && own.is_empty() {
            return Err(Refusal::RespondAndClose(Status::TIMEOUT, CloseReason::Stopping));
        }
        let refreshes = match uri.session_id() {
            None => None,
            Some(text) => {
                let named = |s: &SessionKey| Some((*s, self.sessions.live_uri(*s, text, self.core.now)?));
                let live = own.iter().find_map(named);
                Some(live.ok_or(Refusal::Respond(Status::NO_SESSION, "refresh of a session not its own"))?)
            }
        };
        let value = transit.head.authorization(&transit.octets).ok_or(Refusal::Challenge)?;
        let authorization = Authorization::parse(value).map_err(|error| match error {
            AuthorizationError::Malformed => Refusal::Malformed("malformed credentials"),
            AuthorizationError::Unsupported => Refusal::Wrong("unsupported kind of credentials"),
        })?;
        if !settings.algorithms.contains(&authorization.algorithm) {
            return Err(Refusal::Wrong("algorithm that was not offered"));
        }
        // Who has a session already is not locked out by others who guess at the password.
        let source = peer.source.filter(|_| !through_relay);
        let user = UserKey::new(&authorization.username, &authorization.realm);
        let suspects = [source.map(Who::Address), Some(Who::User(user))];
        let is_banned = |who: &Who| self.core.bans.is_banned(*who, offence(transit), self.core.now);
        if own.is_empty() && suspects.iter().flatten().any(is_banned) {
            return Err(Refusal::Respond(Status::FORBIDDEN, "Too many failed attempts, try again later"));
        }
        let auth = peer.applicant(transit).ok_or(Refusal::Challenge)?;
        if authorization.realm != settings.realm_for(&uri, auth) {
            return Err(Refusal::Wrong("wrong realm"));
        }
        let stale = auth
            .use_nonce(&authorization.nonce, authorization.nc, self.core.now)
            .ok_or(Refusal::Wrong("nonce unknown or used before"))?;
        let number = peer.take_ticket(transit);
        let uri = transit.to_path().last().unwrap_or_default();
        fx.push(Effect::LookUp {
            ticket: LookUpTicket { peer: key, number },
            who: behind::relay_of(transit).or_else(|| source.map(Who::Address)).unwrap_or(Who::User(user)),
            attempt: Box::new(Attempt::new(&authorization, uri)),
        });
        let algorithm = authorization.algorithm;
        Ok(Waiting { ticket: number, transit: transit.clone(), stale, refreshes, algorithm })
    }

    /// The accounts have answered.
    pub(crate) fn on_looked_up(&mut self, ticket: LookUpTicket, answer: LookUpAnswer, fx: &mut Effects) {
        let Some(auth) = self.peers.get_mut(ticket.peer).and_then(|peer| peer.by_ticket(ticket.number))
        else {
            return;
        };
        let Some(waiting) = auth.waiting.take_if(|w| w.ticket == ticket.number) else {
            return;
        };
        let key = ticket.peer;
        if let Err(refusal) = self.conclude(key, &waiting, answer, fx) {
            self.refuse_auth(key, &waiting.transit, &refusal, fx);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.drop_idle_ticket(ticket.number);
            peer.update_pause(&mut self.core, fx);
        }
    }

    fn conclude(
        &mut self,
        key: PeerKey,
        waiting: &Waiting,
        answer: LookUpAnswer,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let ha1 = match answer {
            LookUpAnswer::Found(ha1) => ha1,
            // The same work as for a known user: who exists must not show in the time it takes.
            LookUpAnswer::Unknown => Ha1::dummy(waiting.algorithm),
            LookUpAnswer::Unavailable => {
                return Err(Refusal::Respond(Status::TIMEOUT, "accounts unavailable"));
            }
        };
        let transit = &waiting.transit;
        let uri = transit.to_path().last().unwrap_or_default();
        let value = transit.head.authorization(&transit.octets).unwrap_or_default();
        let authorization =
            Authorization::parse(value).map_err(|_| Refusal::Malformed("malformed credentials"))?;
        let verified = check(&authorization, &ha1, "AUTH", uri)
            .ok_or(Refusal::Wrong("unknown user or wrong password"))?;
        if waiting.stale {
            self.core.stats.auth_challenged += 1;
            self.challenge(key, transit, true, fx);
            return Ok(());
        }
        let granted = match self.core.settings.grant(transit.head.expires()) {
            Ok(granted) => granted,
            Err(bound) => {
                self.core.stats.auth_out_of_bounds += 1;
                self.out_of_bounds(key, transit, bound, fx);
                return Ok(());
            }
        };
        let claim = Claim { waiting: waiting.clone(), verified, ha1, granted };
        if self.core.settings.limits.counts_users() && self.is_new_session(key, waiting) {
            self.claim(key, claim, fx);
            return Ok(());
        }
        self.admit(key, claim, false, fx)
    }

    /// Whatever the refusal is, a connection that nobody vouches for can have so many and no more.
    fn refuse_auth(&mut self, key: PeerKey, transit: &Transit, refusal: &Refusal, fx: &mut Effects) {
        self.answer_refused(key, transit, refusal, fx);
        // Many may log in at once through a relay that has just come.
        let served = self.peers.get_mut(key).is_some_and(|peer| peer.client_behind(transit).is_some());
        if !served {
            self.count_refusal(key, fx);
        }
    }

    fn answer_refused(&mut self, key: PeerKey, transit: &Transit, refusal: &Refusal, fx: &mut Effects) {
        let (status, why) = match refusal {
            Refusal::Challenge => {
                self.core.stats.auth_challenged += 1;
                return self.challenge(key, transit, false, fx);
            }
            Refusal::Close(_) if self.serves_session(key) => (Status::NO_SESSION, "AUTH for another relay"),
            Refusal::Close(reason) => return self.close_peer(key, *reason, fx),
            Refusal::Wrong(why) => {
                self.challenge(key, transit, false, fx);
                (Status::UNAUTHORIZED, *why)
            }
            Refusal::Malformed(why) => (Status::BAD_REQUEST, *why),
            Refusal::Respond(status, why) => (*status, *why),
            Refusal::RespondAndClose(status, reason) => (*status, reason.as_str()),
        };
        let through_relay = is_through_relay(transit);
        let value = transit.head.authorization(&transit.octets).unwrap_or_default();
        let named = Authorization::parse(value).ok();
        fx.event(Event::AuthRefused {
            peer: key,
            status,
            why,
            user: named.as_ref().map(|named| named.username.clone().into_owned()),
            relay: through_relay.then(|| authority_of_first(transit.received_from_path().as_bytes())),
        });
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if !matches!(refusal, Refusal::Wrong(_)) {
            // A 408 is no verdict on the credentials: the client is told to come again.
            let comment = match status {
                Status::TIMEOUT if matches!(refusal, Refusal::RespondAndClose(..)) => {
                    Some("This relay is about to stop, use another")
                }
                Status::TIMEOUT => Some("Accounts unavailable, try again later"),
                Status::FORBIDDEN => Some(why),
                _ => None,
            };
            peer.respond(transit, status, comment, fx);
        }
        if let Refusal::RespondAndClose(_, reason) = refusal {
            // What is wrong with one client, or one AUTH, does not end the sessions of others (norm C3).
            let spared = through_relay && (*reason != CloseReason::AnotherName || self.is_shared(key));
            if !spared {
                self.close_peer(key, *reason, fx);
            }
            return;
        }
        if !matches!(refusal, Refusal::Wrong(_) | Refusal::Malformed(_)) {
            return;
        }
        self.core.stats.auth_failed += 1;
        let source = peer.source.filter(|_| !through_relay);
        let culprit = peer.me;
        let Some(auth) = peer.applicant(transit) else {
            return;
        };
        auth.failures += 1;
        let too_many = auth.failures >= self.core.settings.attempts_max;
        // For the user that was named, whether or not there is one: who exists must not show (norm S9).
        auth.tried = named.as_ref().map(|a| beginning(&a.username));
        let user = named.map(|a| UserKey::new(&a.username, &a.realm));
        let blamed = [source.map(Who::Address), user.map(Who::User)];
        for who in blamed.into_iter().flatten() {
            self.core.tally(who, Tally::Failed { offence: offence(transit), culprit }, fx);
        }
        if too_many {
            self.core.bite(Limit::AuthAttempts, Some(key), fx);
            let until = self.core.now + self.core.settings.limits.failure_window;
            match self.peers.get_mut(key).and_then(|peer| peer.client_behind(transit)) {
                // Never a connection that others use (norm A13).
                Some(client) => client.block_until(until),
                None => self.close_peer(key, CloseReason::AuthFailures, fx),
            }
        }
    }

    /// Whether sessions of others live by a connection.
    fn is_shared(&self, key: PeerKey) -> bool {
        self.peers.get(key).is_some_and(|peer| !peer.bound.is_empty())
    }

    /// 401 with a fresh nonce; one header per algorithm, strongest first (norm T14).
    fn challenge(&mut self, key: PeerKey, transit: &Transit, stale: bool, fx: &mut Effects) {
        let settings = &self.core.settings;
        let uri = transit.to_path().last().and_then(|uri| MsrpUri::parse(uri).ok());
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(auth) = peer.applicant(transit) else {
            return;
        };
        let realm = uri.map(|uri| settings.realm_for(&uri, auth)).unwrap_or_default();
        let nonce = Nonce::new(&mut self.core.entropy, Some(self.core.now + settings.challenge_lifetime));
        let challenges: Vec<String> = settings
            .algorithms
            .iter()
            .map(|algorithm| {
                Challenge {
                    realm: realm.as_str().into(),
                    nonce: nonce.text.as_str().into(),
                    opaque: Some(auth.opaque.as_str().into()),
                    algorithm: *algorithm,
                    stale,
                }
                .to_string()
            })
            .collect();
        auth.challenge = Some(nonce);
        let mut response = auth_response(peer, transit, Status::UNAUTHORIZED, None);
        for challenge in &challenges {
            response = response.header("WWW-Authenticate", challenge.as_bytes());
        }
        response.end(Flag::Last);
        peer.wake(fx);
    }

    /// 423 with the bound that was missed; asked only once the credentials are right (norm A7).
    fn out_of_bounds(&mut self, key: PeerKey, transit: &Transit, bound: Bound, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let (name, seconds) = match bound {
            Bound::Min(seconds) => ("Min-Expires", seconds),
            Bound::Max(seconds) => ("Max-Expires", seconds),
        };
        auth_response(peer, transit, Status::OUT_OF_BOUNDS, None)
            .header_fmt(name, format_args!("{seconds}"))
            .end(Flag::Last);
        peer.wake(fx);
    }
}

impl Peer {
    /// Who asks: the client at the other end, or the one behind that relay whom an AUTH comes from.
    fn applicant(&mut self, transit: &Transit) -> Option<&mut AuthState> {
        if is_through_relay(transit) {
            return self.client_behind(transit).map(|client| &mut client.auth);
        }
        self.auth.as_deref_mut()
    }

    fn client_behind(&mut self, transit: &Transit) -> Option<&mut Client> {
        let nearest = transit.received_from_path().first().filter(|_| is_through_relay(transit))?;
        self.behind.as_mut()?.client(nearest)
    }

    /// A number by which the answers to an AUTH's questions are known.
    fn take_ticket(&mut self, transit: &Transit) -> u32 {
        if is_through_relay(transit) {
            let nearest = transit.received_from_path().first().unwrap_or_default();
            return self.behind.as_mut().map_or(0, |behind| behind.take_ticket(nearest, transit.cost()));
        }
        self.auth.as_mut().map_or(0, |auth| {
            auth.ticket = auth.ticket.wrapping_add(1);
            auth.ticket
        })
    }

    /// Who waits for an answer with that number. A connection is a client's or a relay's.
    fn by_ticket(&mut self, number: u32) -> Option<&mut AuthState> {
        match &mut self.behind {
            Some(behind) => behind.by_ticket(number),
            None => self.auth.as_deref_mut(),
        }
    }

    /// Nobody waits for that number any more, unless a place among the user's sessions is still asked for.
    fn drop_idle_ticket(&mut self, number: u32) {
        if let Some(behind) = &mut self.behind
            && behind.by_ticket(number).is_none_or(|auth| !auth.is_waiting())
        {
            behind.drop_ticket(number);
        }
    }

    /// All who wait for something.
    fn waiting_applicants(&self) -> impl Iterator<Item = &AuthState> {
        let behind = self.behind.iter().flat_map(|behind| behind.states());
        self.auth.as_deref().into_iter().chain(behind)
    }
}

/// What a failure counts as.
fn offence(transit: &Transit) -> Offence {
    if is_through_relay(transit) { Offence::AuthBehind } else { Offence::Auth }
}

/// Begins the answer to an AUTH: its To-Path URI, exactly as sent, is where the answer comes from.
fn auth_response<'p>(
    peer: &'p mut Peer,
    transit: &'p Transit,
    status: Status,
    comment: Option<&str>,
) -> FrameWriter<'p> {
    let from = transit.to_path().last().unwrap_or_default();
    FrameWriter::response(peer.out.control(), transit.head.tid(&transit.octets), status, comment)
        .header("To-Path", response_to_path(transit))
        .header("From-Path", from)
}

/// For how long a session is granted.
#[derive(Debug)]
struct Granted {
    seconds: u64,
    /// It ends then; otherwise it lives as long as its connection.
    enforced: bool,
}

enum Bound {
    Min(u64),
    Max(u64),
}

/// What is kept of a name.
fn beginning(name: &str) -> Box<str> {
    let end = name.char_indices().nth(TRIED_CHARS_MAX).map_or(name.len(), |(at, _)| at);
    Box::from(name.get(..end).unwrap_or_default())
}

impl Settings {
    /// Whether an AUTH to this URI is for us: our name or a domain we serve, one of our ports or none.
    fn answers_to(&self, uri: &MsrpUri<'_>) -> bool {
        let host = uri.host_str();
        let served = match &self.domains {
            None => true,
            Some(domains) => {
                host_matches(host, &self.hostname) || domains.iter().any(|domain| host_matches(host, domain))
            }
        };
        served && uri.port().is_none_or(|port| self.ports.contains(&port))
    }

    /// A session is prolonged in the realm it was opened in: its URI has our host, which may be none.
    /// Host names have no case but hashes do: the realm of a domain is its lower-case spelling.
    fn realm_for(&self, uri: &MsrpUri<'_>, auth: &AuthState) -> String {
        match (&self.realm, &auth.user) {
            (Some(realm), _) => realm.clone(),
            (None, Some(user)) if uri.session_id().is_some() => user.realm().to_owned(),
            (None, _) => uri.host_str().to_ascii_lowercase(),
        }
    }

    fn grant(&self, asked: Option<u64>) -> Result<Granted, Bound> {
        match asked {
            None => Ok(Granted { seconds: self.expires_seconds_default, enforced: self.enforce_default }),
            Some(seconds) if seconds < self.expires_seconds_min => Err(Bound::Min(self.expires_seconds_min)),
            Some(seconds) if seconds > self.expires_seconds_max => Err(Bound::Max(self.expires_seconds_max)),
            Some(seconds) => Ok(Granted { seconds, enforced: true }),
        }
    }
}
