//! From credentials that are right to a session: a place among the user's sessions, a URI or its
//! prolongation, the 200 (RFC 4976, 5.1 and 6.3); and the end of sessions that have expired.

use std::sync::Arc;

use slotmap::SlotMap;

use super::{Claim, Granted, Nonce, Refusal, URIS_PER_SESSION_MAX, Waiting, auth_response, is_through_relay};
use crate::admission::{Tally, UserKey, Who};
use crate::ids::{CoreId, LookUpTicket, PeerKey, SessionKey};
use crate::limit::Limit;
use crate::message::{Message, Transit};
use crate::peer::{Peer, Role};
use crate::session::{NewSession, NewUri};
use crate::view::authority_of_first;
use crate::{CloseReason, Effects, Event, Relay};
use msrp_proto::digest::{AuthenticationInfo, Authorization, Ha1, Verified};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

impl Relay {
    /// Whether a session is asked for that counts among its user's. A client's connection counts once, whatever it has;
    /// behind a relay each session counts by itself. Another URI of a session is no other session.
    pub(super) fn is_new_session(&mut self, key: PeerKey, waiting: &Waiting) -> bool {
        let now = self.core.now;
        let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.user.is_none()) else {
            return false;
        };
        let own = peer.sessions_of(&waiting.transit).map(|sessions| &**sessions).unwrap_or_default();
        waiting.refreshes.is_none() && !own.iter().any(|session| self.sessions.is_live(*session, now))
    }

    /// Asks the core that counts the user for a place among the user's sessions.
    pub(super) fn claim(&mut self, key: PeerKey, claim: Claim, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let me = peer.me;
        let Some(auth) = peer.applicant(&claim.waiting.transit) else {
            return;
        };
        let user = UserKey::new(claim.verified.username(), claim.verified.realm());
        let ticket = LookUpTicket { peer: key, number: claim.waiting.ticket };
        let peer = me;
        auth.claim = Some(Box::new(claim));
        let counter = Who::User(user).counter(self.core.cores.len());
        if self.core.running(counter).is_some() {
            self.core.tally(Who::User(user), Tally::Claim { peer, ticket }, fx);
        } else {
            // Nobody counts just now: better one too many than nobody at all.
            let who = Who::User(user);
            self.core.post(Message::Claimed { peer, ticket, who, granted: true, counter: None }, fx);
        }
    }

    /// The core that counts the user has answered.
    pub(crate) fn on_claimed(
        &mut self,
        ticket: LookUpTicket,
        who: Who,
        granted: bool,
        counter: Option<CoreId>,
        fx: &mut Effects,
    ) {
        let key = ticket.peer;
        let auth = self.peers.get_mut(key).and_then(|peer| peer.by_ticket(ticket.number));
        let claim = auth.and_then(|auth| auth.claim.take_if(|c| c.waiting.ticket == ticket.number));
        let Some(claim) = claim else {
            // Who asked is gone. A core that has died since has forgotten what it counted.
            let index = who.counter(self.core.cores.len());
            if counter.is_some() && counter == self.core.running(index) {
                self.core.tally(who, Tally::Released, fx);
            }
            return;
        };
        let transit = claim.waiting.transit.clone();
        let outcome = if granted {
            let user = UserKey::new(claim.verified.username(), claim.verified.realm());
            if let Some(peer) = self.peers.get_mut(key).filter(|_| !is_through_relay(&transit)) {
                peer.count_among(user, &mut self.core);
            }
            self.admit(key, *claim, true, fx)
        } else {
            self.core.bite(Limit::SessionsPerUser, Some(key), fx);
            Err(Refusal::Respond(Status::FORBIDDEN, "Too many sessions of this user"))
        };
        if let Err(refusal) = outcome {
            if granted && is_through_relay(&transit) {
                // No session was made that could give the place back.
                self.core.tally(who, Tally::Released, fx);
            }
            self.refuse_auth(key, &transit, &refusal, fx);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.drop_idle_ticket(ticket.number);
            peer.update_pause(&mut self.core, fx);
        }
    }

    /// A core that counted users is gone: what was asked of it is granted.
    pub(crate) fn grant_claims_of(&mut self, gone: CoreId, fx: &mut Effects) {
        let cores = self.core.cores.len();
        for (peer, claim) in claims(&self.peers) {
            let user = UserKey::new(claim.verified.username(), claim.verified.realm());
            if Who::User(user).counter(cores) == usize::from(gone.index) {
                let ticket = LookUpTicket { peer: peer.me.key, number: claim.waiting.ticket };
                let (peer, who) = (peer.me, Who::User(user));
                self.core.post(Message::Claimed { peer, ticket, who, granted: true, counter: None }, fx);
            }
        }
    }

    /// The core at a position is up: what it was asked before it could hear, it is asked again. A second
    /// answer finds nobody, and gives the place back.
    pub(crate) fn claim_again(&mut self, index: usize, fx: &mut Effects) {
        let cores = self.core.cores.len();
        for (peer, claim) in claims(&self.peers) {
            let who = Who::User(UserKey::new(claim.verified.username(), claim.verified.realm()));
            if who.counter(cores) == index {
                let ticket = LookUpTicket { peer: peer.me.key, number: claim.waiting.ticket };
                self.core.tally(who, Tally::Claim { peer: peer.me, ticket }, fx);
            }
        }
    }

    /// Everything is in order, and there is a place among the user's sessions if they are counted.
    pub(super) fn admit(
        &mut self,
        key: PeerKey,
        claim: Claim,
        counted: bool,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let Claim { waiting, verified, ha1, granted } = claim;
        let value = waiting.transit.head.authorization(&waiting.transit.octets).unwrap_or_default();
        let authorization =
            Authorization::parse(value).map_err(|_| Refusal::Malformed("malformed credentials"))?;
        let uri = self.open_or_refresh(key, &waiting, verified, &granted, counted, fx)?;
        if let Some(peer) = self.peers.get_mut(key) {
            peer.prove(&mut self.core, fx);
        }
        self.update_session_over(key);
        self.accept_auth(key, &uri, &waiting.transit, &authorization, &ha1, &granted, fx);
        Ok(())
    }

    /// One session per connection: the same user may have another URI for it, another user none (decision: every
    /// session gets a congestion control of its own). Returns the URI that is granted or prolonged.
    fn open_or_refresh(
        &mut self,
        key: PeerKey,
        waiting: &Waiting,
        verified: Verified,
        granted: &Granted,
        counted: bool,
        fx: &mut Effects,
    ) -> Result<Arc<[u8]>, Refusal> {
        const ANOTHER: Refusal =
            Refusal::Respond(Status::FORBIDDEN, "Open another connection for another session");
        let now = self.core.now;
        // Behind a relay there is no connection of the client's to end with: what was announced holds.
        let enforced = granted.enforced || is_through_relay(&waiting.transit);
        let expires = enforced.then(|| now + std::time::Duration::from_secs(granted.seconds));
        let through_relay = is_through_relay(&waiting.transit);
        let peer = self.peers.get_mut(key).ok_or(Refusal::Close(CloseReason::Misaddressed))?;
        let auth = peer.applicant(&waiting.transit).ok_or(Refusal::Challenge)?;
        if auth.user.as_ref().is_some_and(|user| **user != verified) {
            return Err(ANOTHER);
        }
        if let Some((session, uri)) = waiting.refreshes {
            // It was there when the AUTH came; the look-up may have taken longer than it lasted.
            let prolonged = self.sessions.prolong(session, uri, expires);
            return prolonged
                .ok_or(Refusal::Respond(Status::NO_SESSION, "refresh of a session that has ended"));
        }
        let verified = Arc::clone(auth.user.get_or_insert_with(|| Arc::new(verified)));
        let port = match peer.role {
            Role::Dialling | Role::Dialled => self.core.settings.tls_port,
            Role::Foreign | Role::Client { .. } => None,
        };
        let uri = NewUri {
            inner_path: Arc::from(waiting.transit.received_from_path().as_bytes()),
            expires,
            secure: peer.transport.secure,
            port: port.unwrap_or(peer.transport.port),
        };
        let own = peer.sessions_of(&waiting.transit).map(|sessions| &**sessions).unwrap_or_default();
        if let Some(session) = own.iter().copied().find(|session| self.sessions.is_live(*session, now)) {
            if self.sessions.live_uris(session, now) >= URIS_PER_SESSION_MAX {
                return Err(ANOTHER);
            }
            let id = self.sessions.id_of(session);
            fx.event(Event::SessionRenewed {
                session: id.map(|id| id.prefix().to_owned()).unwrap_or_default(),
            });
            return self.sessions.renew(session, uri, &mut self.core).ok_or(ANOTHER);
        }
        let counted = through_relay && counted;
        let new = NewSession {
            peer: peer.me,
            through_relay,
            verified: Arc::clone(&verified),
            counted: counted.then(|| UserKey::new(verified.username(), verified.realm())),
        };
        let (session, uri) = self.sessions.open(new, uri, &mut self.core);
        match peer.sessions_of(&waiting.transit) {
            Some(sessions) => sessions.push(session),
            None => peer.role = Role::Client { sessions: vec![session] },
        }
        if through_relay && let Some(id) = self.sessions.id_of(session) {
            let nearest = waiting.transit.received_from_path().first().unwrap_or_default();
            let chunk_max = self.core.settings.chunk_bounds.of_uri(nearest);
            self.core.post(Message::Bind { peer: peer.me, session: id, chunk_max }, fx);
        }
        fx.event(Event::SessionOpened {
            session: self.sessions.id_of(session).map(|id| id.prefix().to_owned()).unwrap_or_default(),
            user: verified.username().to_owned(),
            realm: verified.realm().to_owned(),
            peer: key,
            relay: through_relay.then(|| authority_of_first(waiting.transit.received_from_path().as_bytes())),
        });
        Ok(uri)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one answer, each of another kind")]
    fn accept_auth(
        &mut self,
        key: PeerKey,
        own_uri: &[u8],
        transit: &Transit,
        authorization: &Authorization<'_>,
        ha1: &Ha1,
        granted: &Granted,
        fx: &mut Effects,
    ) {
        self.core.stats.auth_ok += 1;
        // In the order in which the client uses them: the way back from here to it is in From-Path (RFC 4976, 5.1).
        let mut use_path = Vec::new();
        for relay in transit.received_from_path().uris().rev().skip(1) {
            use_path.extend_from_slice(relay);
            use_path.push(b' ');
        }
        use_path.extend_from_slice(own_uri);
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(auth) = peer.applicant(transit) else {
            return;
        };
        let next = Nonce::new(&mut self.core.entropy, None);
        let uri = transit.to_path().last().unwrap_or_default();
        let info = AuthenticationInfo {
            nextnonce: Some(next.text.as_str().into()),
            rspauth: authorization.rspauth(ha1, uri).as_str().to_owned().into(),
            cnonce: authorization.cnonce.clone(),
            nc: authorization.nc,
        };
        let info = info.to_string();
        auth.next = Some(next);
        auth.challenge = None;
        auth.failures = 0;
        auth_response(peer, transit, Status::OK, None)
            .header("Use-Path", &use_path)
            .header_fmt("Expires", format_args!("{}", granted.seconds))
            .header("Authentication-Info", info.as_bytes())
            .end(Flag::Last);
        peer.wake(fx);
    }

    /// Notes when the first session of a connection is over, and sees to it then.
    fn update_session_over(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Role::Client { sessions } = &peer.role else {
            return;
        };
        peer.session_over = sessions.iter().filter_map(|s| self.sessions.over_at(*s)).min();
        peer.set_alarm(&mut self.core);
    }

    /// Sessions that expired so long ago that no transaction can be open that went through them are
    /// ended, as if their client had gone (norm A12). The connection stays: its client may ask for
    /// another.
    pub(crate) fn end_sessions(&mut self, key: PeerKey, fx: &mut Effects) {
        let now = self.core.now;
        if let Some(peer) = self.peers.get_mut(key)
            && let Role::Client { sessions } = &mut peer.role
        {
            for over in sessions.extract_if(.., |s| self.sessions.is_over(*s, now)) {
                if let Some(session) = self.sessions.id_of(over) {
                    self.core.post(Message::InnerLost { session }, fx);
                }
            }
            if sessions.is_empty() {
                peer.last_used = now;
                if let Some(user) = peer.user.take() {
                    // Others of the user's may have its place.
                    self.core.rates.end(user, now);
                    self.core.tally(Who::User(user), Tally::Released, fx);
                }
            }
        }
        self.update_session_over(key);
    }
}

/// AUTHs that wait for a place among their user's sessions, and the connections they came by.
fn claims(peers: &SlotMap<PeerKey, Peer>) -> impl Iterator<Item = (&Peer, &Claim)> {
    let of_peer =
        |peer| Peer::waiting_applicants(peer).filter_map(move |auth| Some((peer, auth.claim.as_deref()?)));
    peers.values().flat_map(of_peer)
}

impl Peer {
    /// The sessions of whoever an AUTH comes from; `None` before a client's connection has one.
    fn sessions_of(&mut self, transit: &Transit) -> Option<&mut Vec<SessionKey>> {
        if is_through_relay(transit) {
            return self.client_behind(transit).map(|client| &mut client.sessions);
        }
        match &mut self.role {
            Role::Client { sessions } => Some(sessions),
            Role::Foreign | Role::Dialling | Role::Dialled => None,
        }
    }
}
