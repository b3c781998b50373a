//! The negative answers to an AUTH: a challenge, an error, the end of the connection; and which counters they raise
//! (RFC 4976, 6.3; reqs A6, A7, A13).

use msrp_proto::digest::Challenge;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;
use msrp_proto::write::FrameWriter;

use super::request::AuthRequest;
use super::state::{Bound, Nonce};
use crate::api::Event;
use crate::core::Core;
use crate::ids::PeerKey;
use crate::limit::Limit;
use crate::peers::Peers;
use crate::peers::peer::{Peer, response_to_path};
use crate::quota::who::{Tally, UserKey, Who};
use crate::reason::CloseReason;
use crate::view::authority_of_first;

/// Characters kept of an unproven name. It is for the log, which shows as many.
const TRIED_CHARS_MAX: usize = 64;

/// The answer to an AUTH that cannot succeed.
pub(super) enum Refusal {
    /// An error response, not counted.
    Respond(Status, &'static str),
    /// A fresh challenge, because there were no credentials.
    Challenge,
    /// A fresh challenge, because the credentials were wrong: counted.
    Wrong(&'static str),
    /// An error response, counted.
    Malformed(&'static str),
    /// The answer, then the end of the connection.
    RespondAndClose(Status, CloseReason),
    /// The end of the connection.
    Close(CloseReason),
}

impl Peers {
    /// Whatever the refusal is, a connection that has proven nothing may get only so many.
    pub(super) fn refuse_auth(
        &mut self,
        key: PeerKey,
        request: &AuthRequest,
        refusal: &Refusal,
        core: &mut Core,
    ) {
        self.answer_refused(key, request, refusal, core);
        // Many clients may log in at once through a relay that has just connected.
        let served = request.is_through_relay()
            && self.get_mut(key).is_some_and(|peer| peer.applicants.client_behind(request).is_some());
        if !served {
            self.count_refusal(key, core);
        }
    }

    fn answer_refused(&mut self, key: PeerKey, request: &AuthRequest, refusal: &Refusal, core: &mut Core) {
        let (status, why) = match refusal {
            Refusal::Challenge => {
                core.stats.auth_challenged += 1;
                return self.challenge(key, request, false, core);
            }
            Refusal::Close(_) if self.serves_session(key) => (Status::NO_SESSION, "AUTH for another relay"),
            Refusal::Close(reason) => return self.close(key, *reason, core),
            Refusal::Wrong(why) => {
                self.challenge(key, request, false, core);
                (Status::UNAUTHORIZED, *why)
            }
            Refusal::Malformed(why) => (Status::BAD_REQUEST, *why),
            Refusal::Respond(status, why) => (*status, *why),
            Refusal::RespondAndClose(status, reason) => (*status, reason.as_str()),
        };
        let through_relay = request.is_through_relay();
        let (named, names) = (request.given(), core.settings.timed_names);
        core.effects.event(Event::AuthRefused {
            peer: key,
            status,
            why,
            user: named.map(|named| names.user_of(&named.username).to_owned()),
            relay: through_relay.then(|| authority_of_first(request.way_back().as_bytes())),
        });
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        if !matches!(refusal, Refusal::Wrong(_)) {
            // A 408 is no verdict on the credentials: the client is told to try again.
            let comment = match status {
                Status::TIMEOUT if matches!(refusal, Refusal::RespondAndClose(..)) => {
                    Some("This relay is about to stop, use another")
                }
                Status::TIMEOUT => Some("Accounts unavailable, try again later"),
                Status::FORBIDDEN => Some(why),
                _ => None,
            };
            peer.respond(request.transit(), status, comment, core);
        }
        if let Refusal::RespondAndClose(_, reason) = refusal {
            // A fault of one client, or of one AUTH, does not end the sessions of others (req C3).
            let spared = (through_relay && (*reason != CloseReason::AnotherName || self.is_shared(key)))
                || (request.is_by_websocket() && self.serves_session(key));
            if !spared {
                self.close(key, *reason, core);
            }
            return;
        }
        if !matches!(refusal, Refusal::Wrong(_) | Refusal::Malformed(_)) {
            return;
        }
        core.stats.auth_failed += 1;
        let source = peer.origin.source().filter(|_| !through_relay);
        let culprit = peer.me;
        let Some(auth) = peer.applicants.of(request) else {
            return;
        };
        auth.failures += 1;
        let too_many = auth.failures >= core.settings.max_attempts;
        // Counts for the named user, whether or not that user exists: the answer must not show it (req S9).
        auth.tried = named.map(|a| beginning(names.user_of(&a.username)));
        let user = named.map(|a| UserKey::new(names.user_of(&a.username), &a.realm));
        let blamed = [source.map(Who::Address), user.map(Who::User)];
        for who in blamed.into_iter().flatten() {
            core.tally(who, Tally::Failed { offence: request.offence(), culprit });
        }
        // By WebSocket others may live by the connection, or none.
        let is_alone = !through_relay && !self.serves_session(key);
        if too_many {
            core.bite(Limit::AuthAttempts, Some(key));
            let until = core.now + core.settings.limits.failure_window;
            let peer = self.get_mut(key).filter(|_| !is_alone);
            match peer.and_then(|peer| peer.applicants.client_behind(request)) {
                // Never closes a connection that other clients use (req A13).
                Some(client) => client.block_until(until),
                None => self.close(key, CloseReason::AuthFailures, core),
            }
        }
    }

    /// Whether a connection serves sessions of other clients.
    fn is_shared(&self, key: PeerKey) -> bool {
        self.get(key).is_some_and(|peer| !peer.bound.is_empty())
    }

    /// 401 with a fresh nonce; one header per algorithm, strongest first (req T14).
    pub(super) fn challenge(&mut self, key: PeerKey, request: &AuthRequest, stale: bool, core: &mut Core) {
        let settings = &core.settings;
        let uri = MsrpUri::parse(request.to()).ok();
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let Some(auth) = peer.applicants.of(request) else {
            return;
        };
        let realm = uri.map(|uri| settings.realm_for(&uri, auth)).unwrap_or_default();
        let nonce = Nonce::new(&mut core.entropy, Some(core.now + settings.challenge_lifetime));
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
        let mut response = auth_response(peer, request, Status::UNAUTHORIZED);
        for challenge in &challenges {
            response = response.header("WWW-Authenticate", challenge.as_bytes());
        }
        response.end(Flag::Last);
        peer.wake(core);
    }

    /// 423 with the bound that was missed; only after the credentials were found right (req A7).
    pub(super) fn out_of_bounds(
        &mut self,
        key: PeerKey,
        request: &AuthRequest,
        bound: &Bound,
        core: &mut Core,
    ) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let (name, seconds) = match bound {
            Bound::Min(seconds) => ("Min-Expires", seconds),
            Bound::Max(seconds) => ("Max-Expires", seconds),
        };
        auth_response(peer, request, Status::OUT_OF_BOUNDS)
            .header_fmt(name, format_args!("{seconds}"))
            .end(Flag::Last);
        peer.wake(core);
    }
}

/// Begins the answer to an AUTH. The answer's From-Path is the AUTH's To-Path URI, exactly as sent.
pub(super) fn auth_response<'p>(
    peer: &'p mut Peer,
    request: &'p AuthRequest,
    status: Status,
) -> FrameWriter<'p> {
    let transit = request.transit();
    FrameWriter::response(peer.out.rare_control(), transit.head.tid(&transit.bytes), status, None)
        .header("To-Path", response_to_path(transit))
        .header("From-Path", request.to())
}

/// The part of a name that is kept.
fn beginning(name: &str) -> Box<str> {
    let end = name.char_indices().nth(TRIED_CHARS_MAX).map_or(name.len(), |(at, _)| at);
    Box::from(name.get(..end).unwrap_or_default())
}
