//! Judges an AUTH: before the look-up, so that a bad request costs none, and after it.
//!
//! The handlers need the connections and the sessions at once, so they are methods of the relay.

use msrp_proto::digest::{Attempt, AuthorizationError, Ha1, Verified, check};
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, host_matches};

use super::applicants::Applicants;
use super::refuse::Refusal;
use super::request::{AuthRequest, Credentials};
use super::state::{AuthState, Bound, Claim, Granted, Pending, Waiting};
use super::through_relay::{Behind, SESSIONS_PART};
use crate::Relay;
use crate::api::{Effect, LookUpAnswer};
use crate::core::Core;
use crate::ids::{LookUpTicket, PeerKey, SessionRef, UriId};
use crate::peers::peer::Peer;
use crate::peers::state::Role;
use crate::quota::newcomers::Stage;
use crate::quota::who::{UserKey, Who};
use crate::reason::CloseReason;
use crate::sessions::Sessions;
use crate::settings::{Expires, Settings};

/// Sessions of one WebSocket. What they take is not counted against the memory budget, as with any client's connection: so
/// they must be few.
const WEBSOCKET_SESSIONS_MAX: usize = 64;
/// The reason in the log, which does not tell who exists either.
const WRONG: &str = "unknown user or wrong password";

/// An AUTH that is worth a look-up.
struct Worthy {
    ticket: u32,
    stale: bool,
    refreshes: Option<(SessionRef, UriId)>,
}

/// What the look-up showed.
enum Outcome {
    /// The credentials are right, but their challenge has expired.
    Stale,
    /// They are right, but Expires is out of bounds.
    OutOfBounds(Bound),
    Right(Verified, Ha1, Granted),
}

impl Relay {
    /// A complete AUTH whose To-Path is one URI.
    pub(crate) fn on_auth(&mut self, key: PeerKey, request: AuthRequest) {
        let core = &mut self.core;
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.advance(Stage::Asking, core);
        if matches!(peer.applicants, Applicants::None) && !request.is_of_several() {
            peer.applicants = Applicants::Own(Box::new(AuthState::new(&mut core.entropy)));
        }
        match judge(peer, &request, &self.sessions, core) {
            Ok(Worthy { ticket, stale, refreshes }) => {
                if let Some(auth) = peer.applicants.of(&request) {
                    let waiting = Waiting { ticket, request, stale, refreshes };
                    auth.pending = Pending::LookUp(Box::new(waiting));
                }
            }
            Err(refusal) => self.peers.refuse_auth(key, &request, &refusal, core),
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.update_pause(&mut self.core);
        }
    }

    /// The accounts have answered.
    pub(crate) fn on_looked_up(&mut self, ticket: LookUpTicket, answer: LookUpAnswer) {
        let LookUpTicket { peer: key, number } = ticket;
        let auth = self.peers.get_mut(key).and_then(|peer| peer.applicants.by_ticket(number));
        let Some(waiting) = auth.and_then(|auth| auth.take_look_up(number)) else {
            return;
        };
        let request = waiting.request.clone();
        if let Err(refusal) = self.conclude(key, waiting, answer) {
            self.peers.refuse_auth(key, &request, &refusal, &mut self.core);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.applicants.drop_idle_ticket(number);
            peer.update_pause(&mut self.core);
        }
    }

    fn conclude(&mut self, key: PeerKey, waiting: Box<Waiting>, answer: LookUpAnswer) -> Result<(), Refusal> {
        let core = &mut self.core;
        match verify(&waiting, answer, &core.settings)? {
            Outcome::Stale => {
                core.stats.auth_challenged += 1;
                self.peers.challenge(key, &waiting.request, true, core);
            }
            Outcome::OutOfBounds(bound) => {
                core.stats.auth_out_of_bounds += 1;
                self.peers.out_of_bounds(key, &waiting.request, &bound, core);
            }
            Outcome::Right(verified, ha1, granted) => {
                let counts = core.settings.limits.counts_users() && self.is_new_session(key, &waiting);
                let claim = Claim { waiting, verified, ha1, granted };
                match counts {
                    true => self.peers.claim(key, claim, &mut self.core),
                    false => self.admit(key, claim, false)?,
                }
            }
        }
        Ok(())
    }
}

/// All checks that need no account.
fn judge(
    peer: &mut Peer,
    request: &AuthRequest,
    sessions: &Sessions,
    core: &mut Core,
) -> Result<Worthy, Refusal> {
    if !peer.transport.secure && !core.settings.insecure_plain {
        return Err(Refusal::RespondAndClose(Status::FORBIDDEN, CloseReason::AuthWithoutTls));
    }
    let uri = MsrpUri::parse(request.to())
        .map_err(|_| Refusal::Respond(Status::BAD_REQUEST, "To-Path is not a URI"))?;
    if !core.settings.answers_to(&uri, request.is_by_websocket()) {
        return Err(Refusal::Close(CloseReason::Misaddressed));
    }
    if peer.applicants.of(request).is_some_and(|auth| auth.is_waiting()) {
        return Err(Refusal::Respond(Status::BAD_REQUEST, "pipelined AUTH"));
    }
    let own = own_sessions(peer, request, sessions, core)?;
    if core.is_draining() && own.is_empty() {
        return Err(Refusal::RespondAndClose(Status::TIMEOUT, CloseReason::Stopping));
    }
    let refreshes = match uri.session_id() {
        None => None,
        Some(text) => {
            let named = |s: &SessionRef| Some((*s, sessions.live_uri(*s, text, core.now)?));
            let live = own.iter().find_map(named);
            Some(live.ok_or(Refusal::Respond(Status::NO_SESSION, "refresh of a session not its own"))?)
        }
    };
    let authorization = match request.credentials() {
        Credentials::Given(authorization) => authorization,
        Credentials::Missing => return Err(Refusal::Challenge),
        Credentials::Unreadable(AuthorizationError::Malformed) => {
            return Err(Refusal::Malformed("malformed credentials"));
        }
        Credentials::Unreadable(AuthorizationError::Unsupported) => {
            return Err(Refusal::Wrong("unsupported kind of credentials"));
        }
    };
    if !core.settings.algorithms.contains(&authorization.algorithm) {
        return Err(Refusal::Wrong("algorithm that was not offered"));
    }
    // A client with a session is not locked out because others guess at the password.
    let source = peer.origin.source().filter(|_| !request.is_through_relay());
    let named = core.settings.timed_names.user_of(&authorization.username);
    let user = UserKey::new(named, &authorization.realm);
    let suspects = [source.map(Who::Address), Some(Who::User(user))];
    let is_banned = |who: &Who| core.bans.is_banned(*who, request.offence(), core.now);
    if own.is_empty() && suspects.iter().flatten().any(is_banned) {
        return Err(Refusal::Respond(Status::FORBIDDEN, "Too many failed attempts, try again later"));
    }
    let auth = peer.applicants.of(request).ok_or(Refusal::Challenge)?;
    if authorization.realm != core.settings.realm_for(&uri, auth) {
        return Err(Refusal::Wrong("wrong realm"));
    }
    let stale = auth
        .use_nonce(&authorization.nonce, authorization.nc, core.now)
        .ok_or(Refusal::Wrong("nonce unknown or used before"))?;
    let ticket = peer.applicants.take_ticket(request);
    core.effects.push(Effect::LookUp {
        ticket: LookUpTicket { peer: peer.me.key, number: ticket },
        who: request.relay().or_else(|| source.map(Who::Address)).unwrap_or(Who::User(user)),
        attempt: Box::new(Attempt::new(authorization, request.to())),
    });
    Ok(Worthy { ticket, stale, refreshes })
}

/// The sessions of the client that an AUTH comes from, if that client may ask here at all.
fn own_sessions(
    peer: &mut Peer,
    request: &AuthRequest,
    sessions: &Sessions,
    core: &mut Core,
) -> Result<Vec<SessionRef>, Refusal> {
    if peer.transport.websocket {
        return Ok(meet_by_websocket(peer, request, sessions, core)?.to_vec());
    }
    if request.is_through_relay() {
        return Ok(meet(peer, request, sessions, core)?.to_vec());
    }
    let is_free = !peer.origin.is_dialled()
        && peer.bound.is_empty()
        && !matches!(peer.applicants, Applicants::Behind(_));
    match &peer.role {
        Role::Client { sessions } => Ok(sessions.clone()),
        Role::Foreign if is_free => Ok(Vec::new()),
        Role::Foreign => Err(Refusal::Respond(Status::FORBIDDEN, "AUTH on a connection in other use")),
    }
}

/// Admits an AUTH that came through a relay: the relay has proven to be the host of the first URI in From-Path, and its
/// clients are welcome (reqs A14, A15). Returns the sessions that this client has.
fn meet<'p>(
    peer: &'p mut Peer,
    request: &AuthRequest,
    sessions: &Sessions,
    core: &mut Core,
) -> Result<&'p [SessionRef], Refusal> {
    let forbidden = |why| Err(Refusal::Respond(Status::FORBIDDEN, why));
    let nearest = request.nearest();
    match &peer.names {
        None => return forbidden("AUTH through a relay that has not proven its name"),
        Some(names) if !names.cover_host_of(nearest) => {
            return Err(Refusal::RespondAndClose(Status::FORBIDDEN, CloseReason::AnotherName));
        }
        Some(_) => {}
    }
    let uri = MsrpUri::parse(nearest)
        .map_err(|_| Refusal::Respond(Status::BAD_REQUEST, "From-Path is not a URI"))?;
    if !core.settings.serves_relays {
        return forbidden("AUTH through a relay, and there is no tls.client_ca");
    }
    if !core.settings.admits(uri.host_str()) {
        return forbidden("AUTH through a relay that is not in outbound.relays");
    }
    if request.way_back().uris().any(|uri| MsrpUri::parse(uri).is_ok_and(|uri| core.settings.is_ours(&uri))) {
        return forbidden("AUTH has come through this relay before");
    }
    // A client's own AUTH and those of clients behind it must not share one set of question numbers.
    if matches!(peer.role, Role::Client { .. }) || peer.applicants.is_own_waiting() {
        return forbidden("AUTH on a connection in other use");
    }
    client_of(peer, nearest, sessions, core)
}

/// The same for one that has come by WebSocket, where each client is told from the others by its URI (RFC 7977). No relay
/// comes that way.
fn meet_by_websocket<'p>(
    peer: &'p mut Peer,
    request: &AuthRequest,
    sessions: &Sessions,
    core: &mut Core,
) -> Result<&'p [SessionRef], Refusal> {
    if request.is_through_relay() {
        return Err(Refusal::Respond(Status::FORBIDDEN, "AUTH through a relay by WebSocket"));
    }
    MsrpUri::parse(request.nearest())
        .map_err(|_| Refusal::Respond(Status::BAD_REQUEST, "From-Path is not a URI"))?;
    client_of(peer, request.nearest(), sessions, core)
}

/// The client with this URI, whom room is made for if it is not known.
fn client_of<'p>(
    peer: &'p mut Peer,
    nearest: &[u8],
    sessions: &Sessions,
    core: &mut Core,
) -> Result<&'p [SessionRef], Refusal> {
    let forbidden = |why| Err(Refusal::Respond(Status::FORBIDDEN, why));
    let is_known = peer.applicants.behind_mut().is_some_and(|behind| behind.client(nearest).is_some());
    let is_full = core.memory.is_pressed() || sessions.kept() > core.memory.allowance() / SESSIONS_PART;
    // The first client of a connection of its own is one like any other.
    let is_first = peer.transport.websocket && matches!(peer.applicants, Applicants::None);
    if !is_known && !is_first && is_full {
        return forbidden("No memory for another client, try again later");
    }
    let has_many =
        matches!(&peer.role, Role::Client { sessions } if sessions.len() >= WEBSOCKET_SESSIONS_MAX);
    if !is_known && has_many {
        return forbidden("Too many clients by this connection, open another");
    }
    let behind = peer.applicants.behind_or_insert_with(|| Behind::new(&mut core.entropy));
    let is_open = |session| sessions.contains(session);
    let Some(client) = behind.meet(nearest, &is_open, &mut core.entropy) else {
        return forbidden("Too many clients by this connection, open another");
    };
    if client.blocked_until.is_some_and(|until| core.now < until) {
        return forbidden("Too many failed attempts, try again later");
    }
    Ok(&client.sessions)
}

/// The outcome, given the answer of the accounts.
fn verify(waiting: &Waiting, answer: LookUpAnswer, settings: &Settings) -> Result<Outcome, Refusal> {
    let Some(authorization) = waiting.request.given() else {
        return Err(Refusal::Malformed("malformed credentials"));
    };
    let dummy = Ha1::dummy(authorization.algorithm);
    let (ha1, why) = match answer {
        LookUpAnswer::Found(ha1) => (ha1, WRONG),
        // The same work as for a known user: the time must not show who exists.
        LookUpAnswer::Unknown => (dummy, WRONG),
        LookUpAnswer::Refused(why) => (dummy, why),
        LookUpAnswer::Unavailable => {
            return Err(Refusal::Respond(Status::TIMEOUT, "accounts unavailable"));
        }
    };
    let verified = check(authorization, &ha1, "AUTH", waiting.request.to())
        .ok_or(Refusal::Wrong(why))?
        .of_user(settings.timed_names);
    if waiting.stale {
        return Ok(Outcome::Stale);
    }
    Ok(match settings.grant(waiting.request.transit().head.expires()) {
        Ok(granted) => Outcome::Right(verified, ha1, granted),
        Err(bound) => Outcome::OutOfBounds(bound),
    })
}

impl Settings {
    /// Whether an AUTH to this URI is for us: our name or a domain we serve, one of our ports or none. By WebSocket it may
    /// be any: the port of the web server before us (RFC 7977, 8.1.1, has 443).
    fn answers_to(&self, uri: &MsrpUri<'_>, is_by_websocket: bool) -> bool {
        let host = uri.host_str();
        let served = match &self.domains {
            None => true,
            Some(domains) => {
                host_matches(host, &self.hostname) || domains.iter().any(|domain| host_matches(host, domain))
            }
        };
        served && (is_by_websocket || uri.port().is_none_or(|port| self.ports.contains(&port)))
    }

    /// A session is prolonged in the realm it was opened in: its URI has our host, which may be no realm. Host names
    /// are compared without case but hashes are not: the realm of a domain is its lower-case spelling.
    pub(super) fn realm_for(&self, uri: &MsrpUri<'_>, auth: &AuthState) -> String {
        match (&self.realm, &auth.user) {
            (Some(realm), _) => realm.clone(),
            (None, Some(user)) if uri.session_id().is_some() => user.realm().to_owned(),
            (None, _) => uri.host_str().to_ascii_lowercase(),
        }
    }

    fn grant(&self, asked: Option<u64>) -> Result<Granted, Bound> {
        let Expires { expires_min, expires_default, expires_max, enforce_default } = self.sessions;
        match asked {
            None => Ok(Granted { seconds: expires_default, enforced: enforce_default }),
            Some(seconds) if seconds < expires_min => Err(Bound::Min(expires_min)),
            Some(seconds) if seconds > expires_max => Err(Bound::Max(expires_max)),
            Some(seconds) => Ok(Granted { seconds, enforced: true }),
        }
    }
}
