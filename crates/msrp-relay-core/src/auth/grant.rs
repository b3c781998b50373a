//! From valid credentials to a session: a place among the user's sessions, a URI or its prolongation, the 200 (RFC
//! 4976, 5.1 and 6.3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use msrp_proto::digest::{AuthenticationInfo, Ha1, Verified};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

use super::refuse::{Refusal, auth_response};
use super::request::AuthRequest;
use super::state::{AuthState, Claim, Granted, Nonce, Pending, Waiting};
use crate::Relay;
use crate::api::Event;
use crate::core::Core;
use crate::ids::{CoreId, LookUpTicket, PeerKey, PeerRef, SessionRef};
use crate::limit::Limit;
use crate::message::PeerStep;
use crate::peers::Peers;
use crate::peers::peer::Peer;
use crate::peers::state::Role;
use crate::quota::who::{Tally, UserKey, Who};
use crate::reason::CloseReason;
use crate::sessions::{NewSession, NewUri, Validity};
use crate::view::authority_of_first;

/// URIs one session may have at a time: the present one and the one it replaces (RFC 4976, 9.4).
const URIS_PER_SESSION_MAX: usize = 2;

/// The connection has a session of another user, or one that already has as many URIs as it may.
const ANOTHER: Refusal = Refusal::Respond(Status::FORBIDDEN, "Open another connection for another session");

/// The content of a 200.
struct Answer<'a> {
    /// The URI that is granted or prolonged.
    uri: &'a [u8],
    request: &'a AuthRequest,
    ha1: &'a Ha1,
    /// For how long.
    seconds: u64,
}

/// These handlers need the connections and the sessions at once.
impl Relay {
    /// Whether an AUTH asks for a session that counts among its user's. A client's connection counts once, with any
    /// number of URIs; behind a relay each session counts by itself. Another URI of a session is not another session.
    pub(super) fn is_new_session(&mut self, key: PeerKey, waiting: &Waiting) -> bool {
        let now = self.core.now;
        // By WebSocket the first counts with the connection, each further one by itself.
        let of_several = waiting.request.is_of_several();
        let Some(peer) = self.peers.get_mut(key).filter(|peer| of_several || peer.user.is_none()) else {
            return false;
        };
        let own = peer.sessions_of(&waiting.request).map(|sessions| &**sessions).unwrap_or_default();
        waiting.refreshes.is_none() && !own.iter().any(|session| self.sessions.is_live(*session, now))
    }

    /// The core that counts the user has answered.
    pub(crate) fn on_claimed(
        &mut self,
        ticket: LookUpTicket,
        who: Who,
        granted: bool,
        counter: Option<CoreId>,
    ) {
        let LookUpTicket { peer: key, number } = ticket;
        let core = &mut self.core;
        let auth = self.peers.get_mut(key).and_then(|peer| peer.applicants.by_ticket(number));
        let claim = auth.and_then(|auth| auth.take_claim(number));
        let Some(claim) = claim else {
            // The connection that asked is gone. A core that has died since has lost its count.
            if counter.is_some() && counter == core.cores.running(who.counter(core.cores.len())) {
                core.tally(who, Tally::Released);
            }
            return;
        };
        let request = claim.waiting.request.clone();
        let by_connection =
            !request.is_through_relay() && self.peers.get_mut(key).is_some_and(|peer| peer.user.is_none());
        let outcome = if granted {
            let user = claim.user();
            if let Some(peer) = self.peers.get_mut(key).filter(|_| by_connection) {
                peer.count_among(user, core);
            }
            self.admit(key, *claim, !by_connection)
        } else {
            core.bite(Limit::SessionsPerUser, Some(key));
            Err(Refusal::Respond(Status::FORBIDDEN, "Too many sessions of this user"))
        };
        let core = &mut self.core;
        if let Err(refusal) = outcome {
            if granted && !by_connection {
                // No session exists that could give the place back.
                core.tally(who, Tally::Released);
            }
            self.peers.refuse_auth(key, &request, &refusal, core);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.applicants.drop_idle_ticket(number);
            peer.update_pause(core);
        }
    }

    /// Everything is valid, and there is a place among the user's sessions if they are counted.
    pub(super) fn admit(&mut self, key: PeerKey, claim: Claim, counted: bool) -> Result<(), Refusal> {
        let Claim { waiting, verified, ha1, granted } = claim;
        let uri = match waiting.refreshes {
            Some(_) => self.refresh(key, &waiting, &verified, &granted)?,
            None => self.open_or_renew(key, &waiting.request, verified, (&granted, counted))?,
        };
        if let Some(peer) = self.peers.get_mut(key) {
            peer.prove(&mut self.core);
        }
        let answer = Answer { uri: &uri, request: &waiting.request, ha1: &ha1, seconds: granted.seconds };
        self.peers.accept_auth(key, &answer, &mut self.core);
        Ok(())
    }

    /// Prolongs the session that an AUTH names.
    fn refresh(
        &mut self,
        key: PeerKey,
        waiting: &Waiting,
        verified: &Verified,
        granted: &Granted,
    ) -> Result<Arc<[u8]>, Refusal> {
        let peer = self.peers.get_mut(key).ok_or(Refusal::Close(CloseReason::Misaddressed))?;
        peer.check_user(&waiting.request, verified)?;
        let valid = granted.validity(&waiting.request, self.core.now);
        // The session existed when the AUTH came; the look-up may have taken longer than its remaining life.
        let prolonged = waiting
            .refreshes
            .and_then(|(session, uri)| self.sessions.prolong(session, (uri, valid), &mut self.core));
        prolonged.ok_or(Refusal::Respond(Status::NO_SESSION, "refresh of a session that has ended"))
    }

    /// One session per connection: the same user may have another URI for it, another user may not (so every session
    /// has a congestion control of its own). Returns the granted URI.
    fn open_or_renew(
        &mut self,
        key: PeerKey,
        request: &AuthRequest,
        verified: Verified,
        (granted, counted): (&Granted, bool),
    ) -> Result<Arc<[u8]>, Refusal> {
        let core = &mut self.core;
        let through_relay = request.is_through_relay();
        let peer = self.peers.get_mut(key).ok_or(Refusal::Close(CloseReason::Misaddressed))?;
        let auth = peer.check_user(request, &verified)?;
        let verified = Arc::clone(auth.user.get_or_insert_with(|| Arc::new(verified)));
        let (secure, port) = match (peer.transport.websocket, core.settings.tls_port) {
            // Others come by TCP, whatever this client came by.
            (true, _) => (core.settings.websocket.secure, core.settings.websocket.port),
            (false, Some(port)) if peer.origin.is_dialled() => (peer.transport.secure, port),
            (false, _) => (peer.transport.secure, peer.transport.port),
        };
        let uri = NewUri {
            inner_path: Arc::from(request.way_back().as_bytes()),
            valid: granted.validity(request, core.now),
            secure,
            port,
            websocket: peer.transport.websocket,
        };
        let own = peer.sessions_of(request).map(|sessions| &**sessions).unwrap_or_default();
        if let Some(session) = own.iter().copied().find(|own| self.sessions.is_live(*own, core.now)) {
            if self.sessions.uris_in_use(session, core.now) >= URIS_PER_SESSION_MAX {
                return Err(ANOTHER);
            }
            core.effects.event(Event::SessionRenewed { session: session.id.prefix().to_owned() });
            return self.sessions.renew(session, uri, core).ok_or(ANOTHER);
        }
        let new = NewSession {
            peer: peer.me,
            through_relay,
            verified: Arc::clone(&verified),
            counted: counted.then(|| UserKey::new(verified.username(), verified.realm())),
        };
        let (session, uri) = self.sessions.open(new, uri, core);
        if let Some(client) = peer.applicants.client_behind(request) {
            client.sessions.push(session);
        }
        match &mut peer.role {
            _ if through_relay => {}
            Role::Client { sessions } => sessions.push(session),
            role @ Role::Foreign => *role = Role::Client { sessions: vec![session] },
        }
        if through_relay {
            let chunk_max = core.settings.max_chunk.of_uri(request.nearest());
            core.tell_peer(peer.me, PeerStep::Bind { session, chunk_max });
        }
        core.effects.event(Event::SessionOpened {
            session: session.id.prefix().to_owned(),
            user: verified.username().to_owned(),
            realm: verified.realm().to_owned(),
            peer: key,
            relay: through_relay.then(|| authority_of_first(request.way_back().as_bytes())),
        });
        Ok(uri)
    }
}

impl Peers {
    /// Asks the core that counts the user for a place among the user's sessions.
    pub(super) fn claim(&mut self, key: PeerKey, claim: Claim, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let me = peer.me;
        let Some(auth) = peer.applicants.of(&claim.waiting.request) else {
            return;
        };
        let who = Who::User(claim.user());
        let ticket = LookUpTicket { peer: key, number: claim.waiting.ticket };
        auth.pending = Pending::Place(Box::new(claim));
        if core.cores.running(who.counter(core.cores.len())).is_some() {
            core.tally(who, Tally::Claim { peer: me, ticket });
        } else {
            // No core counts at the moment: one session too many is better than none at all.
            core.tell_peer(me, PeerStep::Claimed { ticket, who, granted: true, counter: None });
        }
    }

    /// A core that counted users has died: the claims it was asked for are granted.
    pub(crate) fn grant_claims_of(&self, gone: CoreId, core: &mut Core) {
        for (peer, ticket, who) in self.claims() {
            if who.counter(core.cores.len()) == usize::from(gone.index) {
                core.tell_peer(peer, PeerStep::Claimed { ticket, who, granted: true, counter: None });
            }
        }
    }

    /// The core at a position is up: claims that it could not hear are sent again. A second answer finds no claim, and
    /// gives the place back.
    pub(crate) fn claim_again(&self, index: usize, core: &mut Core) {
        for (peer, ticket, who) in self.claims() {
            if who.counter(core.cores.len()) == index {
                core.tally(who, Tally::Claim { peer, ticket });
            }
        }
    }

    /// AUTHs that wait for a place among their user's sessions.
    fn claims(&self) -> impl Iterator<Item = (PeerRef, LookUpTicket, Who)> {
        self.iter().flat_map(|peer| {
            peer.applicants.claims().map(|claim| {
                let ticket = LookUpTicket { peer: peer.me.key, number: claim.waiting.ticket };
                (peer.me, ticket, Who::User(claim.user()))
            })
        })
    }

    /// The 200 (RFC 4976, 5.1).
    fn accept_auth(&mut self, key: PeerKey, answer: &Answer<'_>, core: &mut Core) {
        let Answer { uri, request, ha1, seconds } = *answer;
        core.stats.auth_ok += 1;
        // In the client's order: From-Path has the way from here back to the client.
        let mut use_path = Vec::new();
        for relay in request.way_back().uris().rev().skip(1) {
            use_path.extend_from_slice(relay);
            use_path.push(b' ');
        }
        use_path.extend_from_slice(uri);
        let (Some(peer), Some(authorization)) = (self.get_mut(key), request.given()) else {
            return;
        };
        let Some(auth) = peer.applicants.of(request) else {
            return;
        };
        let next = Nonce::new(&mut core.entropy, None);
        let info = AuthenticationInfo {
            nextnonce: Some(next.text.as_str().into()),
            rspauth: authorization.rspauth(ha1, request.to()).as_str().to_owned().into(),
            cnonce: authorization.cnonce.clone(),
            nc: authorization.nc,
        };
        let info = info.to_string();
        auth.next = Some(next);
        auth.challenge = None;
        auth.failures = 0;
        auth_response(peer, request, Status::OK)
            .header("Use-Path", &use_path)
            .header_fmt("Expires", format_args!("{seconds}"))
            .header("Authentication-Info", info.as_bytes())
            .end(Flag::Last);
        peer.wake(core);
    }
}

impl Granted {
    /// How long the URI lasts. Behind a relay there is no connection of the client's to end with: what was announced holds.
    fn validity(&self, request: &AuthRequest, now: Instant) -> Validity {
        let is_enforced = self.enforced || request.is_through_relay();
        Validity { announced: now + Duration::from_secs(self.seconds), is_enforced }
    }
}

impl Peer {
    /// The state of the client that an AUTH comes from. Its user must be this one, or not known yet.
    fn check_user(&mut self, request: &AuthRequest, verified: &Verified) -> Result<&mut AuthState, Refusal> {
        let auth = self.applicants.of(request).ok_or(Refusal::Challenge)?;
        match auth.user.as_ref().is_some_and(|user| **user != *verified) {
            true => Err(ANOTHER),
            false => Ok(auth),
        }
    }

    /// The sessions of the client that an AUTH comes from; `None` before a client's connection has one.
    fn sessions_of(&mut self, request: &AuthRequest) -> Option<&mut Vec<SessionRef>> {
        if request.is_of_several() {
            return self.applicants.client_behind(request).map(|client| &mut client.sessions);
        }
        match &mut self.role {
            Role::Client { sessions } => Some(sessions),
            Role::Foreign => None,
        }
    }
}
