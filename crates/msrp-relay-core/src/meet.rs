//! Two sessions of one pair come together on one core, once, when they bind: the sender moves to the receiver.
//!
//! Before the first request of a client is fed to the relay, its reader asks ([`Relay::meet`]). If that request leads to
//! a session on another core, and the connection is at rest, the reader parks and that core is asked, by
//! [`SessionStep::Meet`]. It judges as binding does, binds its own session, keeps room, and answers by
//! [`SessionStep::Met`]. Then, in one step, the client's connection and its session leave the tables here
//! ([`Relay::depart`]) and enter those there ([`Relay::arrive`]); what was received and not fed goes with them.
//!
//! | Who | Says | When | What follows |
//! |---|---|---|---|
//! | guest | `Meet` | its first request is for a session on another core | its reader is parked |
//! | host | `Met(Agreed)` | its session was free: it is bound now | what it sends to the guest is held until that arrives |
//! | host | `Met(Refused)` | it is not free, or its core has no room | the guest's request is fed as ever |
//! | host | `Met(Crossed)` | it asks for the guest itself, and its id is the larger one | the guest hosts, its reader stays parked |
//! | guest | `Stay` | it has agreed, and is not at rest any more | the host speaks to it where it is |
//! | guest's new core | [`CoreStep::Renamed`] | the session that has moved has another URI, or for longer | its home answers for it, too |
//! | guest's new core | [`CoreStep::Gone`] | the session that has moved is over | its home forgets where it went |
//!
//! Invariants: a session moves at most once, and never without being bound by that; no byte of it is held in two places; what
//! the host's client sends meanwhile waits in order, against its sender's credit; if one of the two cores dies before
//! the guest has left, the session on the other core stays where it is, and free. The home of a session that has moved
//! forwards nothing: the session is bound, so a third party that asks for it there is refused. Only a client's own
//! connection moves, with one session and nothing else that lives by it; by WebSocket it may get further ones there, and
//! those lead to where it is.
//!
//! Must not know: sockets, TLS, how a parked reader holds what it has received.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, Path};

use crate::Relay;
use crate::api::{Effect, Event};
use crate::core::Core;
use crate::ids::{CoreId, Entropy, PeerKey, SecretHasher, SessionId, SessionRef};
use crate::message::{CoreStep, Message, SessionStep};
use crate::peers::peer::{Peer, named_session};
use crate::peers::state::{Origin, Phase, Role};
use crate::quota::rates::Part;
use crate::reason::EndReason;
use crate::request::Neighbour;
use crate::sessions::session::Session;
use crate::view::SessionView;

/// Whether the reader of a connection may feed a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meeting {
    /// Yes, and it need not ask again.
    Never,
    /// Yes; the next one may be another matter.
    NotNow,
    /// Not before [`Effect::GoOn`]; then [`Relay::depart`] says whether here at all.
    Asked,
}

/// What becomes of a connection whose reader was parked.
#[derive(Debug)]
pub enum Departure {
    /// It stays: the head is fed.
    Stays,
    /// What it waits for has not happened yet.
    Waits,
    /// It goes on elsewhere.
    Leaves(Box<Traveller>),
}

/// Why two sessions on two cores are not brought together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stay {
    /// Something was under way on the connection that would have moved, or it is in other use.
    Busy,
    /// The session that it is for is not free: bound, over, or about to move itself.
    Taken,
    /// The client of that session is behind a relay.
    BehindRelay,
    /// The other core has no room, is short of memory, or stops.
    Full,
    /// It has died.
    CoreDied,
}

impl Stay {
    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Busy, Self::Taken, Self::BehindRelay, Self::Full, Self::CoreDied];
    /// How many there are.
    pub const COUNT: usize = 5;

    /// The word for people and programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Taken => "taken",
            Self::BehindRelay => "behind_relay",
            Self::Full => "full",
            Self::CoreDied => "core_died",
        }
    }
}

/// How far a session has got in meeting one on another core.
#[derive(Debug, Default)]
pub(crate) enum Progress {
    /// It waits for nothing.
    #[default]
    None,
    /// It has asked; its reader is parked.
    Asking { host: SessionRef, uri: Arc<[u8]> },
    /// The other one has agreed, and its own reader has been told.
    Agreed { host: SessionRef, uri: Arc<[u8]> },
    /// Both have asked, and the other one comes here; its own reader is parked.
    Hosting,
}

impl Progress {
    fn host(&self) -> Option<SessionRef> {
        match self {
            Self::Asking { host, .. } | Self::Agreed { host, .. } => Some(*host),
            Self::None | Self::Hosting => None,
        }
    }
}

/// What the guest says of itself.
#[derive(Debug)]
pub struct Guest {
    pub(crate) session: SessionRef,
    /// Its URI, as its client has written it.
    pub(crate) uri: Box<[u8]>,
    /// To-Path of its request behind that.
    pub(crate) path: Box<[u8]>,
}

/// What the host answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is bound to the guest, who may come.
    Agreed,
    /// It asks for the guest itself: that one is the host.
    Crossed,
    /// It stays as it is.
    Refused(Stay),
}

/// A client's connection and its session, between two cores.
#[derive(Debug)]
pub struct Traveller {
    to: CoreId,
    peer: Peer,
    session: Session,
    /// Of what its user may send, the part that this session has.
    rate: Option<Part>,
}

impl Traveller {
    /// Where it goes.
    #[must_use]
    pub fn to(&self) -> CoreId {
        self.to
    }

    /// What there is to say of the session.
    #[must_use]
    pub fn view(&self, now: Instant) -> SessionView {
        self.session.view(now)
    }
}

/// The guests that a core expects.
#[derive(Debug)]
pub(crate) struct Arrivals(HashMap<SessionId, Arrival, SecretHasher>);

#[derive(Debug)]
struct Arrival {
    /// Where it is now.
    guest: SessionRef,
    /// The session here that is bound to it.
    host: SessionRef,
    /// What that one has for it, in order. Bounded by the credit of the connection where it comes from.
    held: Vec<SessionStep>,
}

impl Arrivals {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        Self(HashMap::with_hasher(SecretHasher::new(entropy)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps a step for a guest that is on its way. Gives back what is for others.
    pub(crate) fn hold(&mut self, to: SessionRef, step: SessionStep) -> Option<SessionStep> {
        if self.0.is_empty() {
            return Some(step);
        }
        match self.0.get_mut(&to.id) {
            Some(arrival) => {
                arrival.held.push(step);
                None
            }
            None => Some(step),
        }
    }
}

/// What the caller says and asks.
impl Relay {
    /// A client's reader has a head, and has fed everything before it. Says whether that may be fed now.
    pub fn meet(&mut self, now: Instant, key: PeerKey, head: &Head, bytes: &[u8]) -> Meeting {
        self.core.now = now;
        let (session, host) = match self.wants_to_meet(key, head, bytes) {
            Ok(meeting) => meeting,
            Err(answer) => return answer,
        };
        let is_at_rest = self.peers.get(key).is_some_and(Peer::is_at_rest);
        if !is_at_rest || self.core.is_stopping() {
            self.core.stats.stayed(Stay::Busy);
            return Meeting::NotNow;
        }
        let path = head.to_path(bytes);
        let text = |path: Path<'_>| Box::from(path.first().unwrap_or_default());
        let uri = Arc::from(path.after(1).first().unwrap_or_default());
        let guest = Guest { session, uri: text(path), path: Box::from(path.after(1).as_bytes()) };
        if let Some(session) = self.sessions.get_mut(session) {
            session.progress = Progress::Asking { host, uri };
        }
        self.core.tell_session(host, SessionStep::Meet { guest });
        self.settle();
        Meeting::Asked
    }

    /// A reader that was parked goes on. If its connection moves, it is not here any more: the caller brings what this
    /// returns to the other core, behind everything that was sent there before, with whatever of the connection is its own,
    /// and feeds nothing here. `quiet`: nothing is to be written, and the connection can be moved.
    pub fn depart(&mut self, now: Instant, key: PeerKey, quiet: bool) -> Departure {
        self.core.now = now;
        let this = self.peers.get(key).and_then(Peer::own_session);
        let Some((this, session)) = this.and_then(|this| Some((this, self.sessions.get_mut(this)?))) else {
            return Departure::Stays;
        };
        let (host, uri) = match &session.progress {
            Progress::None => return Departure::Stays,
            Progress::Asking { .. } | Progress::Hosting => return Departure::Waits,
            Progress::Agreed { host, uri } => (*host, Arc::clone(uri)),
        };
        session.progress = Progress::None;
        let is_at_rest = self.peers.get(key).is_some_and(Peer::is_at_rest);
        let may_go = quiet
            && is_at_rest
            && session.is_fresh()
            && !session.is_expired(now)
            && !self.core.is_stopping()
            && self.core.cores.is_alive(host.core);
        if !may_go {
            self.core.stats.stayed(Stay::Busy);
            self.core.tell_session(host, SessionStep::Stay { guest: this });
            self.settle();
            return Departure::Stays;
        }
        // Both have been found above.
        let left = self.sessions.depart(this, host.core).zip(self.peers.depart(key, &mut self.core));
        let Some((mut session, (peer, rate))) = left else {
            return Departure::Stays;
        };
        session.bind(Neighbour::Session(host), uri);
        self.core.stats.sessions_moved_out += 1;
        self.settle();
        Departure::Leaves(Box::new(Traveller { to: host.core, peer, session, rate }))
    }

    /// A connection that has moved is here. `None`: it is not expected any more, and must be closed; all that there was to
    /// say of it has been said.
    pub fn arrive(&mut self, now: Instant, traveller: Traveller) -> Option<PeerKey> {
        self.core.now = now;
        let Traveller { to, peer, mut session, rate } = traveller;
        let me = self.core.me;
        let arrival = Some(session.me.id).filter(|_| to == me).and_then(|id| self.arrivals.0.remove(&id));
        let Some(arrival) = arrival else {
            // Its connection has another name here, and never comes to have it.
            let session = Box::new(SessionView { client: None, ..session.view(now) });
            self.core.effects.event(Event::SessionClosed { session, reason: EndReason::CoreDied });
            return None;
        };
        self.peers.expected -= 1;
        let this = SessionRef { core: me, id: session.me.id };
        let key = self.peers.arrive(peer, this, rate, &mut self.core);
        session.arrive(this, key);
        let view = session.view(now);
        self.sessions.insert(session, &mut self.core);
        self.core.stats.sessions_moved_in += 1;
        self.core.stats.links_local += 1;
        let (session, user, realm) = (view.session, view.user, view.realm);
        let from = arrival.guest.core;
        self.core.effects.event(Event::SessionMoved { session, user, realm, peer: key, from });
        for step in arrival.held {
            self.core.tell_session(this, step);
        }
        self.let_host_go_on(arrival.host);
        self.settle();
        Some(key)
    }

    /// Sessions that are on their way here: they count as sessions of this core already, for a drain that waits for the last one.
    #[must_use]
    pub fn arriving(&self) -> usize {
        self.arrivals.len()
    }

    /// The session that a head would bind the client's own one to, and that one, if it lives on another core.
    fn wants_to_meet(
        &self,
        key: PeerKey,
        head: &Head,
        bytes: &[u8],
    ) -> Result<(SessionRef, SessionRef), Meeting> {
        let core = &self.core;
        let peer = self.peers.get(key).filter(|_| core.cores.len() > 1).ok_or(Meeting::Never)?;
        if !peer.may_ever_move() {
            return Err(Meeting::Never);
        }
        // Before its AUTH; it may come to have one.
        let this = peer.own_session().ok_or(Meeting::NotNow)?;
        let session = self.sessions.get(this).ok_or(Meeting::NotNow)?;
        if !session.is_fresh() || !session.counts_with_its_connection() {
            return Err(Meeting::Never);
        }
        let binds = match head.kind() {
            Kind::Request(Method::Send) => true,
            Kind::Request(Method::Other) => core.settings.methods_allow_other,
            Kind::Request(_) | Kind::Response(_) => false,
        };
        let path = head.to_path(bytes);
        let own = path.first().and_then(|uri| session.named_by(uri));
        let is_live = own.is_some_and(|own| !own.is_expired(core.now));
        if !binds || head.defect().is_some() || !is_live {
            return Err(Meeting::NotNow);
        }
        let next = path.after(1).first().ok_or(Meeting::NotNow)?;
        let is_ours = MsrpUri::parse(next).is_ok_and(|uri| core.settings.is_ours(&uri));
        let host = Some(next).filter(|_| is_ours).and_then(named_session).map(SessionRef::of_wire);
        let host = host.filter(|host| host.core != core.me && core.cores.is_alive(host.core));
        Ok((this, host.ok_or(Meeting::NotNow)?))
    }
}

/// The steps.
impl Relay {
    /// The session of another core wants to come here, to this one.
    pub(crate) fn on_meet(&mut self, this: SessionRef, guest: &Guest) {
        let answer = match self.agree(this, guest) {
            Ok(answer) => answer,
            Err(stay) => Answer::Refused(stay),
        };
        self.core.tell_session(guest.session, SessionStep::Met { host: this, answer });
    }

    /// Judges as binding does, and whether there is room; binds.
    fn agree(&mut self, this: SessionRef, guest: &Guest) -> Result<Answer, Stay> {
        let is_full = self.core.is_stopping()
            || self.core.memory.is_pressed()
            || self.peers.len() + self.peers.expected >= self.core.settings.limits.connections_per_core_max;
        let session = self.sessions.get_mut(this).ok_or(Stay::Taken)?;
        let path = Path::new(&guest.path);
        let own = path.first().and_then(|uri| session.named_by(uri));
        let is_live = own.is_some_and(|own| !own.is_expired(self.core.now));
        if !is_live || !session.leads_inside(path.after(1)) || !session.outer.is_unbound() {
            return Err(Stay::Taken);
        }
        let client = session.client().ok_or(Stay::BehindRelay)?;
        let crosses = match &session.progress {
            Progress::Asking { host, .. } if host.id == guest.session.id => true,
            Progress::None => false,
            // It is about to meet another one.
            Progress::Asking { .. } | Progress::Agreed { .. } | Progress::Hosting => return Err(Stay::Taken),
        };
        if crosses && guest.session.id < this.id {
            return Ok(Answer::Crossed);
        }
        if !self.peers.get(client).is_some_and(|peer| peer.phase == Phase::Up) {
            return Err(Stay::Taken);
        }
        if is_full {
            return Err(Stay::Full);
        }
        let to = SessionRef { core: self.core.me, id: guest.session.id };
        session.bind(Neighbour::Session(to), Arc::from(&*guest.uri));
        if crosses {
            session.progress = Progress::Hosting;
        }
        let arrival = Arrival { guest: guest.session, host: this, held: Vec::new() };
        self.arrivals.0.insert(guest.session.id, arrival);
        self.peers.expected += 1;
        Ok(Answer::Agreed)
    }

    /// The host has answered.
    pub(crate) fn on_met(&mut self, this: SessionRef, host: SessionRef, answer: Answer) {
        let session = self.sessions.get_mut(this);
        let session = session.filter(
            |session| matches!(session.progress, Progress::Asking { host: asked, .. } if asked == host),
        );
        match (session, answer) {
            (Some(session), Answer::Agreed) => {
                if let Progress::Asking { host, uri } = std::mem::take(&mut session.progress) {
                    session.progress = Progress::Agreed { host, uri };
                }
                let reader = session.client();
                self.let_go_on(reader);
            }
            // It was to be the host, and could not; or it could not be had.
            (Some(session), Answer::Crossed) => self.core.stay(session, Stay::Full),
            (Some(session), Answer::Refused(why)) => self.core.stay(session, why),
            // It is over, and does not come.
            (None, Answer::Agreed) => self.core.tell_session(host, SessionStep::Stay { guest: this }),
            (None, Answer::Crossed | Answer::Refused(_)) => {}
        }
    }

    /// A guest that was expected does not come.
    pub(crate) fn on_stay(&mut self, host: SessionRef, guest: SessionRef) {
        let expected = self.arrivals.0.get(&guest.id).is_some_and(|arrival| arrival.guest == guest);
        let Some(arrival) = self.arrivals.0.remove(&guest.id).filter(|_| expected) else {
            return;
        };
        self.peers.expected -= 1;
        let here = Neighbour::Session(SessionRef { core: self.core.me, id: guest.id });
        match self.sessions.get_mut(host) {
            // Nothing has been said to it: both are free.
            Some(session) if arrival.held.is_empty() => {
                session.lose(here, false);
            }
            // It is spoken to where it is; what it says to that is as ever.
            Some(session) => session.follow(here, Neighbour::Session(guest)),
            None => {}
        }
        for step in arrival.held {
            if let Some((stream, bytes)) = step.load() {
                self.lend(stream, guest.core, bytes);
            }
            self.core.tell_session(guest, step);
        }
        self.let_host_go_on(host);
    }

    /// A core has died: sessions that waited for it wait no more, and its guests do not arrive.
    pub(crate) fn meet_no_more_at(&mut self, gone: CoreId) {
        let Self { sessions, core, .. } = self;
        for session in sessions.iter_mut() {
            if session.progress.host().is_some_and(|host| host.core == gone) {
                core.stay(session, Stay::CoreDied);
            }
        }
        let lost: Vec<SessionId> = self
            .arrivals
            .0
            .iter()
            .filter(|(_, arrival)| arrival.guest.core == gone)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            let Some(arrival) = self.arrivals.0.remove(&id) else { continue };
            self.peers.expected -= 1;
            let here = SessionRef { core: self.core.me, id };
            // What was held is refused as by a session that is over.
            for step in arrival.held {
                self.core.tell_session(here, step);
            }
            let (neighbour, status) = (Neighbour::Session(here), Status::NO_SESSION);
            let lost = SessionStep::NeighbourLost { neighbour, was_up: false, status };
            self.core.tell_session(arrival.host, lost);
            self.let_host_go_on(arrival.host);
        }
        self.sessions.forget_departed_to(gone);
    }

    /// The host of a guest that has come, or will not, goes on if it was parked for that.
    fn let_host_go_on(&mut self, host: SessionRef) {
        let parked =
            self.sessions.get_mut(host).filter(|session| matches!(session.progress, Progress::Hosting));
        if let Some(session) = parked {
            session.progress = Progress::None;
            let reader = session.client();
            self.let_go_on(reader);
        }
    }

    fn let_go_on(&mut self, reader: Option<PeerKey>) {
        if let Some(key) = reader {
            self.core.effects.push(Effect::GoOn(key));
        }
    }
}

impl Core {
    /// A session that wanted to meet another one stays: its reader goes on.
    fn stay(&mut self, session: &mut Session, why: Stay) {
        self.stats.stayed(why);
        session.progress = Progress::None;
        if let Some(key) = session.client() {
            self.effects.push(Effect::GoOn(key));
        }
    }

    /// A session is over: who expects it is told, and so is its home, if it has moved.
    pub(crate) fn tell_of_end(&mut self, session: &Session) {
        if !matches!(session.progress, Progress::None)
            && let Some(key) = session.client()
        {
            // It may have expired: its client's connection lives on, and is refused what it waits with.
            self.effects.push(Effect::GoOn(key));
        }
        if let Progress::Agreed { host, .. } = session.progress {
            self.tell_session(host, SessionStep::Stay { guest: session.me });
        }
        let home = session.me.id.home();
        if home != self.me {
            self.post(Message::ToCore { to: home, step: CoreStep::Gone { session: session.me.id } });
        }
    }
}

impl Peer {
    /// Whether it is a client's own connection, or may become one: nothing but one session of its own lives by it. A
    /// WebSocket by which a second one has been opened stays, and whom that speaks with comes to it.
    fn may_ever_move(&self) -> bool {
        let is_accepted = matches!(self.origin, Origin::Accepted { .. });
        let may_be_client = match &self.role {
            Role::Client { sessions } => sessions.len() <= 1,
            Role::Foreign => !self.is_proven(),
        };
        is_accepted && may_be_client && self.bound.is_empty() && self.names.is_none()
    }

    /// The session of its client, if that has exactly one.
    pub(crate) fn own_session(&self) -> Option<SessionRef> {
        match &self.role {
            Role::Client { sessions } => match sessions.as_slice() {
                [own] => Some(*own),
                _ => None,
            },
            Role::Foreign => None,
        }
    }

    /// Where a session of its own lives, of which a URI has been received.
    pub(crate) fn find_own(&self, id: SessionId) -> Option<SessionRef> {
        match &self.role {
            Role::Client { sessions } => sessions.iter().copied().find(|own| own.id == id),
            Role::Foreign => None,
        }
    }
}
