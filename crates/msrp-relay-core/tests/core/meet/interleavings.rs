//! Every step of the protocol, and what may happen between it and the next one: a connection or a session ends, a core
//! dies, the relay drains, another session asks for either one, a client renews its URI or sends.
//!
//! A step is a turn of one core: what is under way on one lane arrives, or the readers go on. After it one thing happens, then
//! all goes on to its end. No session may be left waiting, no table may keep anything, no byte may arrive twice, and each
//! request of a client that stays is answered as what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use msrp_relay_core::{Found, Input, Limits};

use super::{apart_by, stats};
use testkit_pure::line::Line;
use testkit_pure::{Conn, Frame, Reader, Request, World, answer_challenge, relay_uri, settings};

/// A turn of the world.
#[derive(Clone, Copy)]
enum Turn {
    /// The readers read what there is, or look whether they may go on.
    Read,
    /// What is under way from one core to the other arrives.
    Lane(usize, usize),
}

/// Alice asks, bob agrees, she hears of it, leaves, arrives, and is read from.
const ONE_ASKS: [Turn; 6] =
    [Turn::Read, Turn::Lane(0, 1), Turn::Lane(1, 0), Turn::Read, Turn::Lane(0, 1), Turn::Read];

/// Both ask; bob leaves it to alice to host; she agrees to his; he hears of that, leaves, arrives, and is read from.
const BOTH_ASK: [Turn; 7] = [
    Turn::Read,
    Turn::Lane(0, 1),
    Turn::Lane(1, 0),
    Turn::Lane(0, 1),
    Turn::Read,
    Turn::Lane(1, 0),
    Turn::Read,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Nothing,
    /// A client asks for another URI beside the one it has.
    AliceRenews,
    BobRenews,
    /// A connection breaks off.
    AliceGone,
    BobGone,
    /// A client sends no more, and waits for what it is owed.
    AliceEnds,
    BobEnds,
    /// An operator ends a session, wherever it is.
    CloseAlice,
    CloseBob,
    /// A core dies, and what it sent last arrives before that is known, or never does.
    Core0Dies {
        last_words: bool,
    },
    Core1Dies {
        last_words: bool,
    },
    /// The relay accepts no new client.
    Drain,
    /// Users are counted from now on.
    Reload,
    /// So long that any answer is late.
    Time,
    /// A peer from outside sends to a session.
    StrangerToAlice,
    StrangerToBob,
    /// Another client of this relay does, and would come, too.
    CarolToBob,
    /// Bob sends to alice.
    BobSends,
}

const EVENTS: [Event; 20] = [
    Event::Nothing,
    Event::AliceRenews,
    Event::BobRenews,
    Event::AliceGone,
    Event::BobGone,
    Event::AliceEnds,
    Event::BobEnds,
    Event::CloseAlice,
    Event::CloseBob,
    Event::Core0Dies { last_words: false },
    Event::Core0Dies { last_words: true },
    Event::Core1Dies { last_words: false },
    Event::Core1Dies { last_words: true },
    Event::Drain,
    Event::Reload,
    Event::Time,
    Event::StrangerToAlice,
    Event::StrangerToBob,
    Event::CarolToBob,
    Event::BobSends,
];

impl Event {
    /// Whether it ends a session that takes part, or may.
    fn ends_someone(self) -> bool {
        matches!(
            self,
            Self::AliceGone
                | Self::BobGone
                | Self::AliceEnds
                | Self::BobEnds
                | Self::CloseAlice
                | Self::CloseBob
                | Self::Core0Dies { .. }
                | Self::Core1Dies { .. }
        )
    }

    /// Whether another peer may become the other side of one of the two.
    fn is_claim(self) -> bool {
        matches!(self, Self::StrangerToAlice | Self::StrangerToBob | Self::CarolToBob)
    }
}

/// A request of alice or bob.
#[derive(Clone)]
struct Asked {
    conn: Conn,
    tid: String,
    /// Its Message-ID, if it is a SEND and no AUTH.
    id: Option<&'static str>,
}

/// One run.
struct Run {
    line: Line,
    case: String,
    /// What each connection was sent, as it came, but for what was answered on the way.
    frames: BTreeMap<Conn, Vec<Frame>>,
    /// Another client on alice's core, and its session.
    carol: (Conn, String),
    /// Who else has asked for a session, and its request.
    other: Option<(Conn, String)>,
    /// What alice and bob have sent.
    requests: Vec<Asked>,
}

impl Run {
    fn new(case: String, are_pages: bool) -> Self {
        let mut settings = settings(2);
        // All that is counted by user is counted.
        settings.limits = Limits { sessions_per_user_max: 1, ..settings.limits };
        let mut line = apart_by(World::with(settings), [are_pages; 2]);
        let carol = line.world.client(0, "carol");
        line.world.hold_messages = true;
        Self { line, case, frames: BTreeMap::new(), carol, other: None, requests: Vec::new() }
    }

    fn say(&mut self, conn: Conn, request: Request, id: Option<&'static str>) {
        self.line.world.send(conn, request.bytes());
        self.requests.push(Asked { conn, tid: request.tid, id });
    }

    fn alice_sends(&mut self) {
        let request = Request::send(&self.line.path, &self.line.from_uri, "there", b"from alice");
        self.say(self.line.from, request, Some("there"));
    }

    fn bob_sends(&mut self) {
        let request = Request::send(&self.line.back, &self.line.to_uri, "back", b"from bob");
        self.say(self.line.to, request, Some("back"));
    }

    fn turn(&mut self, turn: Turn) {
        let world = &mut self.line.world;
        match turn {
            Turn::Read => world.conns().for_each(|conn| while world.read(conn) {}),
            Turn::Lane(from, to) => drop(world.deliver((from, to), usize::MAX)),
        }
    }

    fn session(&self, of_alice: bool) -> String {
        let path = if of_alice { &self.line.back } else { &self.line.path };
        path.split(' ').nth(1).unwrap().to_owned()
    }

    /// An AUTH of one of the two while nothing crosses cores; the test does not wait for the answer.
    fn renews(&mut self, conn: Conn, uri: &str) {
        let world = &mut self.line.world;
        let user = if conn == self.line.from { "alice" } else { "bob" };
        world.send(conn, Request::new("AUTH", &relay_uri(), uri).bytes());
        while world.read(conn) {}
        world.write(conn);
        let came = world.take(conn);
        let challenge = came.iter().find(|frame| frame.method() == "401").cloned();
        self.frames.entry(conn).or_default().extend(came);
        let Some(challenge) = challenge else {
            // Its reader waits, and the AUTH with it.
            return;
        };
        let password = if user == "alice" { "1234" } else { "5678" };
        let value = answer_challenge(&challenge, user, password, &relay_uri(), 1);
        let request = Request::new("AUTH", &relay_uri(), uri).header("Authorization", &value);
        self.say(conn, request, None);
        let world = &mut self.line.world;
        while world.read(conn) {}
        while !world.look_ups.is_empty() {
            world.finish_look_up(0);
        }
    }

    fn close(&mut self, of_alice: bool) {
        let uri = self.session(of_alice);
        let id = uri.rsplit('/').next().unwrap()[..10].to_owned();
        let world = &mut self.line.world;
        let found = |world: &mut World, core| match world.relay(core).find_session(&id) {
            Found::One(session) => Some((core, session)),
            _ => None,
        };
        // Between two cores it is on neither, and an operator has to ask again.
        if let Some((core, session)) = found(world, 0).or_else(|| found(world, 1)) {
            world.input(core, Input::CloseSession(session));
        }
    }

    fn kill(&mut self, core: usize, last_words: bool) {
        let lane = (core, 1 - core);
        let world = &mut self.line.world;
        match last_words {
            true => drop(world.deliver(lane, usize::MAX)),
            false => drop(world.drop_messages(lane)),
        }
        world.kill_core(core, true);
    }

    /// A request by a peer from outside, on the core where the session was opened.
    fn stranger(&mut self, to_alice: bool) {
        let world = &mut self.line.world;
        let conn = world.connect(usize::from(!to_alice));
        let own = world.end(conn).uri.clone();
        let client = if to_alice { self.line.from_uri.clone() } else { self.line.to_uri.clone() };
        let request =
            Request::send(&format!("{} {client}", self.session(to_alice)), &own, "other", b"stolen");
        self.line.world.send(conn, request.bytes());
        self.line.world.read(conn);
        self.other = Some((conn, request.tid));
    }

    /// The first request of another client, who has been there all the time.
    fn carol_sends(&mut self) {
        let (conn, session) = self.carol.clone();
        let own = self.line.world.end(conn).uri.clone();
        let to = format!("{session} {} {}", self.session(false), self.line.to_uri);
        let request = Request::send(&to, &own, "other", b"stolen");
        self.line.world.send(conn, request.bytes());
        self.line.world.read(conn);
        self.other = Some((conn, request.tid));
    }

    fn happen(&mut self, event: Event) {
        let (alice, bob) = (self.line.from, self.line.to);
        let (alice_uri, bob_uri) = (self.line.from_uri.clone(), self.line.to_uri.clone());
        match event {
            Event::Nothing => {}
            Event::AliceRenews => self.renews(alice, &alice_uri),
            Event::BobRenews => self.renews(bob, &bob_uri),
            Event::AliceGone => self.line.world.lose(alice),
            Event::BobGone => self.line.world.lose(bob),
            Event::AliceEnds => self.line.world.hang_up(alice),
            Event::BobEnds => self.line.world.hang_up(bob),
            Event::CloseAlice => self.close(true),
            Event::CloseBob => self.close(false),
            Event::Core0Dies { last_words } => self.kill(0, last_words),
            Event::Core1Dies { last_words } => self.kill(1, last_words),
            Event::Drain => [0, 1].into_iter().for_each(|core| self.line.world.input(core, Input::Drain)),
            Event::Reload => {
                let mut settings = self.line.world.settings.clone();
                settings.limits.sessions_per_user_max = 0;
                settings.limits.bytes_per_second_per_user_max = 1 << 20;
                for core in [0, 1] {
                    self.line.world.input(core, Input::Reconfigured(Box::new(settings.clone())));
                }
            }
            Event::Time => {
                self.line.world.now += Duration::from_secs(40);
                [0, 1].into_iter().for_each(|core| self.line.world.input(core, Input::Tick));
            }
            Event::StrangerToAlice => self.stranger(true),
            Event::StrangerToBob => self.stranger(false),
            Event::CarolToBob => self.carol_sends(),
            Event::BobSends => self.bob_sends(),
        }
    }

    /// Everything goes on, and everybody answers, until nothing happens any more.
    fn settle(&mut self) {
        self.line.world.hold_messages = false;
        loop {
            self.line.world.run();
            let mut answered = false;
            for conn in self.line.world.conns().collect::<Vec<_>>() {
                for frame in self.line.world.take(conn) {
                    if frame.is("SEND") && !self.line.world.is_closed(conn) {
                        self.line.world.send(conn, frame.response(200));
                        answered = true;
                    }
                    self.frames.entry(conn).or_default().push(frame);
                }
            }
            if !answered {
                break;
            }
        }
    }

    fn received(&self, conn: Conn) -> impl Iterator<Item = &Frame> {
        self.frames.get(&conn).into_iter().flatten()
    }

    /// What a request was answered.
    fn status(&self, conn: Conn, tid: &str) -> Option<u16> {
        let mut answers = self.received(conn).filter(|frame| frame.tid() == tid && !frame.is("SEND"));
        let first = answers.next().map(Frame::status);
        assert!(answers.next().is_none(), "{}: {tid} was answered twice", self.case);
        first
    }

    fn copies(&self, id: &str) -> usize {
        let all = self.frames.values().flatten();
        all.filter(|frame| frame.is("SEND") && frame.message_id() == id).count()
    }

    fn check_answer(&self, Asked { conn, tid, id }: &Asked, event: Event) {
        let (case, status) = (&self.case, self.status(*conn, tid));
        let Some(id) = id else {
            assert!(status == Some(200) || event.ends_someone(), "{case}: AUTH answered {status:?}");
            return;
        };
        let arrived = self.copies(id) == 1;
        if !event.ends_someone() && !event.is_claim() {
            assert_eq!((status, arrived), (Some(200), true), "{case}: {id}");
        }
        if !self.line.world.is_closed(*conn) {
            // What is refused does not arrive; what is accepted arrives, or a REPORT tells that it has not.
            let is_reported =
                self.received(*conn).any(|frame| frame.is("REPORT") && frame.message_id() == *id);
            assert!(status.is_some(), "{case}: {id} was not answered");
            assert!(arrived || status != Some(200) || is_reported, "{case}: {id} is lost in silence");
            assert!(!arrived || status == Some(200), "{case}: {id} arrived, and was refused {status:?}");
        }
    }

    /// What must hold, whatever has happened. Returns whether a session moved.
    fn check(&mut self, event: Event) -> bool {
        let case = self.case.clone();
        for conn in self.line.world.conns().collect::<Vec<_>>() {
            let link = self.line.world.link(conn);
            let waits = !link.gone && (link.travels || link.reader != Reader::Reads || !link.wire.is_empty());
            assert!(!waits, "{case}: {conn:?} waits: {:?}", link.reader);
        }
        self.line.world.assert_idle();
        for id in ["there", "back", "other"] {
            assert!(self.copies(id) <= 1, "{case}: {id} arrived {} times", self.copies(id));
        }
        for asked in &self.requests {
            self.check_answer(asked, event);
        }
        if let Some((conn, tid)) = self.other.clone() {
            let status = self.status(conn, &tid);
            let is_theirs = self.copies("other") == 1;
            let report = self.received(conn).find(|frame| frame.is("REPORT")).map(Frame::reported);
            // The relay may have accepted it, and reports then.
            let is_refused = matches!((status, report), (Some(506), None) | (Some(200), Some(506)));
            let is_accepted = (status, report) == (Some(200), None);
            assert!(if is_theirs { is_accepted } else { is_refused }, "{case}: {status:?}, {report:?}");
            // One of the two has another side now: what the pair says to each other is refused.
            let pair = self.copies("there") + self.copies("back");
            let all = self.requests.iter().filter(|asked| asked.id.is_some()).count();
            assert!(if is_theirs { pair < all } else { pair == all }, "{case}: {pair} of {all} arrived");
        }
        let stats = [0, 1].map(|core| stats(&mut self.line, core));
        for (core, stats) in stats.iter().enumerate() {
            let sizes = self.line.world.relay(core).table_sizes();
            assert_eq!(stats.sessions_open(), sizes.sessions as u64, "{case}: core {core}");
        }
        let is_counted = !event.ends_someone();
        let [out, came] = [stats.map(|s| s.sessions_moved_out), stats.map(|s| s.sessions_moved_in)];
        assert!(!is_counted || out.iter().sum::<u64>() == came.iter().sum::<u64>(), "{case}");
        came.iter().sum::<u64>() > 0
    }

    /// All go. Nothing may be left of them: who comes again is one session of one user.
    fn end(mut self, event: Event) {
        self.line.world.close_all();
        if event != Event::Drain {
            for (core, user) in [(0, "alice"), (1, "alice"), (1, "bob"), (0, "bob")] {
                let (conn, _) = self.line.world.client(core, user);
                self.line.world.lose(conn);
                self.line.world.run();
            }
            self.line.world.close_all();
        }
    }
}

/// Plays each event after each number of turns. Returns how often a session moved by the event.
fn play(turns: &[Turn], both: bool, are_pages: bool) -> BTreeMap<String, Vec<usize>> {
    let mut moved = BTreeMap::<String, Vec<usize>>::new();
    for event in EVENTS {
        for count in 0..=turns.len() {
            // Sent already.
            if both && event == Event::BobSends {
                continue;
            }
            let case = format!("{event:?} after {count} turns, both: {both}, pages: {are_pages}");
            println!("{case}");
            let mut run = Run::new(case, are_pages);
            run.alice_sends();
            if both {
                run.bob_sends();
            }
            turns.iter().take(count).for_each(|turn| run.turn(*turn));
            run.happen(event);
            run.settle();
            if run.check(event) {
                moved.entry(format!("{event:?}")).or_default().push(count);
            }
            run.end(event);
        }
    }
    moved
}

#[test]
fn no_event_after_any_step_of_one_asker_leaves_a_session_waiting_or_loses_bytes_silently() {
    for are_pages in [false, true] {
        let moved = play(&ONE_ASKS, false, are_pages);
        println!("{moved:#?}");
        let all: Vec<usize> = (0..=ONE_ASKS.len()).collect();
        for event in [Event::Nothing, Event::AliceEnds, Event::Time, Event::BobRenews, Event::BobSends] {
            assert_eq!(moved[&format!("{event:?}")], all, "{event:?} keeps no session from moving");
        }
    }
}

#[test]
fn no_event_after_any_step_of_two_askers_leaves_a_session_waiting_or_loses_bytes() {
    for are_pages in [false, true] {
        let moved = play(&BOTH_ASK, true, are_pages);
        println!("{moved:#?}");
        let all: Vec<usize> = (0..=BOTH_ASK.len()).collect();
        assert_eq!(moved["Nothing"], all);
    }
}
