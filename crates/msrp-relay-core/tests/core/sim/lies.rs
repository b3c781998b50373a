//! What hostile endpoints do. No other actor may notice it: no link becomes faulty here.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Expected, Sent, Simulation, Stranger};
use testkit_pure::frame::response;
use testkit_pure::{Conn, Frame, HOST, Reader, Request, answer_challenge, relay_uri};

/// The session is bound, or, if it ends meanwhile, does not exist.
const THIEF: &[u16] = &[506, 481];
const UNKNOWN: &[u16] = &[481];
/// It may be answered by the client itself, or not in time.
const CLAIM: &[u16] = &[200, 408, 413, 500, 506, 481];
const BAD: &[u16] = &[400];
const SILENCE: &[u16] = &[];
/// Wrong credentials: 400 during a look-up, 403 for another user's client.
const REFUSED: &[u16] = &[401, 400, 403, 408];
pub(super) const REPLAYED: &str = "an AUTH replayed and refused";
pub(super) const GUESSED: &[u16] = &[200, 401, 400, 403, 408];

impl Simulation {
    pub(super) fn lie(&mut self) {
        match self.dice.below(8) {
            0 => self.stray_response(),
            1 | 2 => self.answer_from_the_wrong_side(),
            3 => self.forged_session(),
            4 => self.impossible_range(),
            5 => self.broken_response(),
            _ => self.stranger(),
        }
    }

    /// An actor that may be refused as often as it likes, because it has been accepted for something else.
    fn anybody(&mut self) -> Option<(usize, Conn)> {
        let actor = self.dice.below(self.actors.len());
        let bound = self.links.iter().any(|link| link.bound && link.ends.contains(&actor));
        let proven = bound || self.actors[actor].session.is_some();
        self.open_conn(actor).filter(|_| proven).map(|conn| (actor, conn))
    }

    /// A response that no request awaits, and a request to no session that wants no answer.
    fn stray_response(&mut self) {
        let Some((actor, conn)) = self.anybody() else {
            return;
        };
        let uri = self.actors[actor].uri.clone();
        let code = self.dice.pick(&[200, 413, 999]);
        let tid = self.dice.pick(&["astray00", "abcdefghijklmnop", "a.-+%=Z9"]);
        self.world.send(conn, response(tid, code, &relay_uri(), &uri));
        let to = format!("{} {uri}", Self::our_uri("absent"));
        let request = Request::send(&to, &uri, "astray", b"x").header("Failure-Report", "no");
        self.actors[actor].requests.insert(request.tid.clone(), Sent::Lie(SILENCE));
        self.world.send(conn, request.bytes());
    }

    /// A frame that awaits an answer somewhere.
    fn any_pending(&mut self) -> Option<(usize, Frame)> {
        let actor = self.dice.below(self.actors.len());
        let pending = &self.actors[actor].pending;
        (!pending.is_empty()).then(|| {
            let at = self.dice.below(self.actors[actor].pending.len());
            (actor, self.actors[actor].pending[at].clone())
        })
    }

    /// A response with the right transaction id on the wrong connection.
    fn answer_from_the_wrong_side(&mut self) {
        let Some((asked, frame)) = self.any_pending() else {
            return;
        };
        let code = self.dice.pick(&[200, 413, 500]);
        let liar = if !self.strangers.is_empty() && self.dice.chance(40) {
            let at = self.dice.below(self.strangers.len());
            self.strangers[at].conn
        } else {
            match self.anybody() {
                Some((actor, conn)) if actor != asked => conn,
                _ => return,
            }
        };
        self.world.send(liar, frame.response(code));
        self.saw("an answer from the wrong side");
    }

    /// The right transaction id in a response that cannot be read: it is dropped, and the right one still counts.
    fn broken_response(&mut self) {
        let Some((asked, frame)) = self.any_pending() else {
            return;
        };
        if let Some(conn) = self.open_conn(asked) {
            let (tid, to) = (frame.tid(), frame.from_path());
            let paths = self.dice.pick(&["To-Path: absent\r\n", "X-To: absent\r\n", "To-Path absent\r\n"]);
            let bytes = format!("MSRP {tid} 413 Stop\r\n{paths}From-Path: {to}\r\n-------{tid}$\r\n");
            self.world.send(conn, bytes);
        }
    }

    /// A session id that this relay may have minted, as far as it shows, and has not.
    fn forge(&mut self) -> String {
        let mut raw = [0_u8; 21];
        raw.fill_with(|| self.dice.draw().to_le_bytes()[0]);
        // An existing core or not; its first life or another.
        let index = self.dice.pick(&[0, 1, 2, 3, u16::MAX]);
        let incarnation = self.dice.pick(&[0, 0, 1, 7, u16::MAX]);
        raw[..2].copy_from_slice(&index.to_be_bytes());
        raw[2..4].copy_from_slice(&incarnation.to_be_bytes());
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// A live session's URI with another last character.
    fn nearly(&mut self) -> Option<String> {
        let actor = self.dice.below(self.actors.len());
        let mut uri = self.actors[actor].session.clone()?;
        let at = uri.find(';').unwrap() - 1;
        let other = if uri.as_bytes()[at] == b'A' { "B" } else { "A" };
        uri.replace_range(at..=at, other);
        Some(uri)
    }

    fn forged_session(&mut self) {
        let Some((actor, conn)) = self.anybody() else {
            return;
        };
        let forged = match self.nearly() {
            Some(uri) if self.dice.chance(30) => uri,
            _ => {
                let id = self.forge();
                Self::our_uri(&id)
            }
        };
        let uri = self.actors[actor].uri.clone();
        let to = format!("{forged} {}", self.dice.pick(&[uri.as_str(), "msrps://far.example:9/x;tcp"]));
        let method = self.dice.pick(&["SEND", "NICKNAME", "REPORT", "WHATEVER"]);
        let request = Request::new(method, &to, &uri).header("Message-ID", "forged0");
        let codes = if method == "REPORT" { SILENCE } else { UNKNOWN };
        self.actors[actor].requests.insert(request.tid.clone(), Sent::Lie(codes));
        self.world.send(conn, request.bytes());
    }

    /// Byte-Ranges that no bytes can have.
    fn impossible_range(&mut self) {
        let Some((actor, conn)) = self.anybody() else {
            return;
        };
        let link = self.dice.below(self.links.len());
        let range = self.dice.pick(&[
            "0-5/5",
            "7-8/5",
            "18446744073709551616-*/*",
            "1-5/99999999999999999999",
            "1-5",
            "-5/5",
            "1--5/5",
        ]);
        let (wish, codes) = self.dice.pick(&[("yes", BAD), ("partial", BAD), ("no", SILENCE)]);
        let request = Request::new("SEND", &self.links[link].paths[0], &self.actors[actor].uri)
            .header("Message-ID", "impossible")
            .header("Byte-Range", range)
            .header("Failure-Report", wish)
            .body(b"hello");
        self.actors[actor].requests.insert(request.tid.clone(), Sent::Lie(codes));
        self.world.send(conn, request.bytes());
    }

    // -- strangers -----------------------------------------------------------------------------

    pub(super) fn stranger(&mut self) {
        if let Some(at) = self.any_stranger() {
            match self.dice.below(if self.lies { 10 } else { 4 }) {
                0..=3 => self.authenticate(at),
                4 | 5 => self.claim_bound_session(at),
                6 => self.use_stolen_session(at),
                7 => self.forge_report(at),
                _ => self.replay(at),
            }
        }
    }

    /// One of them, or a new one; now and then one goes.
    fn any_stranger(&mut self) -> Option<usize> {
        if self.strangers.is_empty() || self.strangers.len() < 4 && self.dice.chance(20) {
            let conn = self.connect()?;
            self.strangers.push(Stranger {
                conn,
                uri: self.world.end(conn).uri.clone(),
                expected: HashMap::new(),
                answered: HashSet::new(),
                challenge: None,
                authorization: None,
                stuck: false,
                claims: HashSet::new(),
            });
        }
        let at = self.dice.below(self.strangers.len());
        let conn = self.strangers[at].conn;
        if self.world.is_closed(conn) || self.dice.chance(8) {
            self.strangers.swap_remove(at);
            self.world.lose(conn);
            return None;
        }
        Some(at)
    }

    fn say(&mut self, at: usize, request: &Request, codes: &'static [u16], refusal: &'static str) {
        let stranger = &mut self.strangers[at];
        stranger.expected.insert(request.tid.clone(), Expected { codes, refusal });
        self.world.send(stranger.conn, request.bytes());
    }

    /// AUTH without credentials, or with right or wrong ones for the last challenge.
    fn authenticate(&mut self, at: usize) {
        let stranger = &mut self.strangers[at];
        let request = Request::new("AUTH", &relay_uri(), &stranger.uri);
        let Some(challenge) = stranger.challenge.take() else {
            return self.say(at, &request, REFUSED, "an AUTH refused");
        };
        let (password, codes) = self.dice.pick(&[("9abc", GUESSED), ("guess", REFUSED)]);
        let value = answer_challenge(&challenge, "carol", password, &relay_uri(), 1);
        self.strangers[at].authorization = Some(value.clone());
        self.say(at, &request.header("Authorization", &value), codes, "an AUTH refused");
    }

    /// The same credentials again: a nonce's count must rise (RFC 7616, 3.4).
    fn replay(&mut self, at: usize) {
        let stranger = &self.strangers[at];
        let Some(value) = &stranger.authorization else {
            return;
        };
        let request = Request::new("AUTH", &relay_uri(), &stranger.uri).header("Authorization", value);
        self.say(at, &request, REFUSED, REPLAYED);
    }

    /// A second connection that sends to a bound session (RFC 4975, 5.4).
    fn claim_bound_session(&mut self, at: usize) {
        let link = self.dice.below(self.links.len());
        let link = &self.links[link];
        // A faulty link may have lost its binding before the request comes.
        if !link.bound || link.faulty || link.ends.iter().any(|end| self.actors[*end].conn.is_none()) {
            return;
        }
        let end = self.dice.pick(&link.ends);
        let (victim, other) = (&self.actors[end], link.ends[usize::from(end == link.ends[0])]);
        let Some(session) = &victim.session else {
            return;
        };
        let to = format!("{session} {}", victim.uri);
        let own = self.dice.chance(50);
        let from = if own { &self.strangers[at].uri } else { &self.actors[other].uri };
        let request = match self.dice.below(3) {
            0 => Request::new("NICKNAME", &to, from),
            _ => Request::send(&to, from, "thief00", b"stolen"),
        };
        self.say(at, &request, THIEF, "a second claim refused");
    }

    /// A second connection that sends to a session which is about to be bound to another one: either may have it.
    pub(super) fn claim(&mut self) {
        let is_parked = |actor: &usize| {
            self.open_conn(*actor).is_some_and(|conn| self.world.link(conn).reader != Reader::Reads)
        };
        let meeting: Vec<usize> =
            (0..self.links.len()).filter(|link| self.links[*link].ends.iter().any(is_parked)).collect();
        if meeting.is_empty() {
            return;
        }
        let Some(at) = self.any_stranger() else {
            return;
        };
        let link = self.dice.pick(&meeting);
        let end = self.dice.pick(&self.links[link].ends);
        let Some(session) = self.actors[end].session.clone() else {
            return;
        };
        self.fault_of(end);
        self.strangers[at].claims.insert(end);
        let to = format!("{session} {}", self.actors[end].uri);
        let request = Request::new("NICKNAME", &to, &self.strangers[at].uri);
        self.say(at, &request, CLAIM, "a session claimed while it meets another");
        self.saw("a session claimed while it meets another");
    }

    /// A client's URI on a connection that is not that client's: it leads nowhere.
    fn use_stolen_session(&mut self, at: usize) {
        let link = self.dice.below(self.links.len());
        let (link, way) = (&self.links[link], self.dice.below(2));
        let sender = &self.actors[link.ends[way]];
        let Some(session) = &sender.session else {
            return;
        };
        let far = format!("{session} msrps://far.example:9/x;tcp");
        let away = format!("msrps://{HOST}:9/{}", session.rsplit('/').next().unwrap());
        let to = self.dice.pick(&[link.paths[way].as_str(), &far]);
        let to = if self.dice.chance(10) { format!("{away} {}", sender.uri) } else { to.to_owned() };
        let request = Request::send(&to, &sender.uri, "thief00", b"stolen");
        self.say(at, &request, UNKNOWN, "a stolen session refused");
    }

    /// A REPORT by a peer that has received nothing.
    fn forge_report(&mut self, at: usize) {
        let link = self.dice.below(self.links.len());
        let end = self.dice.pick(&self.links[link].ends);
        // Of one that it has claimed it may be the other side, who may report.
        if self.strangers[at].claims.contains(&end) {
            return;
        }
        let Some(session) = &self.actors[end].session else {
            return;
        };
        let to = format!("{session} {}", self.actors[end].uri);
        let status = self.dice.pick(&["000 200 OK", "000 413 Stop"]);
        let request = Request::new("REPORT", &to, &self.strangers[at].uri)
            .header("Message-ID", "thief00")
            .header("Byte-Range", "1-5/5")
            .header("Status", status);
        self.say(at, &request, SILENCE, "a REPORT");
    }

    pub(super) fn mark_stuck(&mut self, core: usize) {
        // From outside it cannot be seen which of them it was.
        for stranger in &mut self.strangers {
            stranger.stuck |= self.world.link(stranger.conn).core == core;
        }
    }
}
