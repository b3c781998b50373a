//! What arrives at the endpoints, and whether it may.

use msrp_proto::head::FailureReport;
use msrp_proto::parser::Flag;
use msrp_relay_core::{CloseReason, Limit};

use super::cast;
use super::lies::{GUESSED, REPLAYED};
use super::{Actor, DIALLED_CHUNK_MAX, Link, Message, Sent, Simulation};
use testkit_pure::{Conn, Frame, Request, answer_challenge, relay_uri};

impl Simulation {
    pub(super) fn collect(&mut self) {
        let mut conns: Vec<(Conn, usize)> = self.by_conn.iter().map(|(c, a)| (*c, *a)).collect();
        conns.sort_unstable();
        for (conn, actor) in &conns {
            // A connection that has proven nothing yet, though its first request may be under way, makes room.
            let made_room = CloseReason::Limit(Limit::QueueBytesTotal);
            let closing = self.world.link(*conn).closing;
            // One whose requests all met sessions that had died with their core is not told from one that guesses.
            let turned_away = closing == Some(made_room) || closing == Some(CloseReason::Refusals);
            if turned_away && !self.actors[*actor].dead {
                let may_make_room = closing != Some(made_room) || !self.is_proven(*actor, *conn);
                assert!(may_make_room, "{conn:?} of actor {actor} made room");
                self.actors[*actor].dead = true;
                self.fault_of(*actor);
                self.saw("a newcomer turned away");
            }
        }
        for (conn, actor) in conns {
            for frame in self.world.take(conn) {
                self.arrived(actor, conn, frame);
            }
        }
        for at in 0..self.strangers.len() {
            for frame in self.world.take(self.strangers[at].conn) {
                self.arrived_at_stranger(at, &frame);
            }
        }
    }

    /// Whether a session was granted by a connection, or something that came from it was passed on.
    fn is_proven(&self, actor: usize, conn: Conn) -> bool {
        let Actor { session, inlet, conn: outlet, .. } = &self.actors[actor];
        let is_client = session.is_some() && inlet.is_none_or(|inlet| inlet == conn);
        let is_heard = self.messages.iter().any(|m| m.from == actor && !m.delivered.is_empty());
        is_client || is_heard && *outlet == Some(conn)
    }

    fn arrived(&mut self, actor: usize, conn: Conn, frame: Frame) {
        let response = !frame.method().starts_with(|c: char| c.is_ascii_uppercase());
        let of_relay = response || frame.is("REPORT") && frame.reported() != 200;
        if of_relay {
            let begun = self.actors[actor].send_began.get(&conn);
            assert_ne!(Some(&frame.flush), begun, "kept behind a chunk that was not begun yet: {frame:?}");
        }
        let is_urgent = response || frame.is("REPORT");
        if is_urgent && self.actors[actor].conn == Some(conn) {
            self.actors[actor].told.push((frame.flush, frame.bytes.len()));
        }
        if response {
            return self.response_arrived(actor, &frame);
        }
        let fresh = self.actors[actor].tids.insert(frame.tid().to_owned());
        assert!(fresh, "a transaction id a second time: {frame:?}");
        assert_eq!(frame.to_path(), self.actors[actor].uri, "To-Path of {frame:?}");
        match frame.method() {
            "SEND" => {
                self.actors[actor].send_began.insert(conn, frame.flush);
                self.chunk_arrived(actor, &frame);
                self.actors[actor].pending.push(frame);
            }
            "REPORT" => self.report_arrived(actor, &frame),
            "NICKNAME" => self.actors[actor].pending.push(frame),
            _ => panic!("no actor sent this: {frame:?}"),
        }
    }

    pub(super) fn message_of(&self, frame: &Frame) -> usize {
        let id = frame.message_id();
        id.strip_prefix("mess").and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("a lie: {frame:?}"))
    }

    /// The most bytes that an actor takes in one chunk.
    fn chunk_bound_of(&self, actor: usize) -> Option<usize> {
        let dialled = self.hosts.values().any(|dialled| *dialled == actor);
        (dialled && self.seed % 4 == 1).then_some(DIALLED_CHUNK_MAX as usize)
    }

    /// A path with the first URI of each session in it: which of two the sender used does not matter.
    fn by_first_uris(&self, link: &Link, path: &str) -> String {
        let actors = link.ends.map(|end| &self.actors[end]);
        actors.into_iter().fold(path.to_owned(), |path, actor| match (&actor.session, &actor.other) {
            (Some(session), Some(other)) => path.replace(other.as_str(), session),
            _ => path,
        })
    }

    fn chunk_arrived(&mut self, actor: usize, frame: &Frame) {
        let index = self.message_of(frame);
        let disturbed = self.is_disturbed(index);
        let bound = self.chunk_bound_of(actor);
        let conn =
            self.open_conn(actor).or_else(|| self.open_inlet(actor)).or(self.actors[actor].conn).unwrap();
        assert!(bound.is_none_or(|bound| frame.body.len() <= bound), "longer than {bound:?}: {frame:?}");
        let link = &self.links[self.messages[index].link];
        let back = self.by_first_uris(link, &link.paths[1 - self.messages[index].way]);
        assert_eq!(self.by_first_uris(link, &frame.from_path()), back, "message {index}");
        let message = &mut self.messages[index];
        let range = frame.range();
        let (start, bytes) = (range.start - message.base, frame.body.len() as u64);
        let expected = cast::body(index, start, frame.body.len());
        assert!(frame.body == expected, "message {index}: other bytes from {start} on");
        assert_eq!(actor, message.to, "message {index} is not for actor {actor}");
        message.check_head(index, frame);
        if let Some(end) = range.end.filter(|_| frame.flag != Flag::Aborted && !message.lies) {
            assert_eq!(end - message.base + 1, start + bytes, "message {index}: {range}");
        }
        let before = message.delivered.last().map_or(0, |(_, end)| *end);
        assert!(start > before, "message {index}: {start} after {before}");
        assert!(!matches!(message.flag, Some(Flag::Last)), "message {index} goes on after its end");
        if !disturbed {
            assert_eq!(start, before + 1, "a gap in message {index}");
            assert_ne!(frame.flag, Flag::Aborted, "its sender did not abort message {index}");
        }
        if let Some(turn) = message.turn.take_if(|_| start == 1)
            && let Some(due) = turn.due
        {
            *self.seen.entry("a wait for a turn judged").or_default() += 1;
            let most = due + 2 * (turn.others + 1);
            assert!(frame.flush <= most, "message {index} waited for {} flushes", frame.flush - due);
        }
        if frame.flag == Flag::Aborted && message.aborted.is_none() {
            *self.seen.entry("a chunk aborted by the relay").or_default() += 1;
        }
        // The sender has gone on to the next byte, but not with a new chunk.
        if start > 1 && message.sent_in_one {
            *self.seen.entry("a chunk cut").or_default() += 1;
        }
        let whole = message.over && start + bytes - 1 == message.sent;
        assert!(frame.flag != Flag::Last || whole, "not all of message {index}, and yet its end");
        message.flag = Some(frame.flag);
        if frame.flag == Flag::Aborted {
            return;
        }
        if bytes > 0 {
            message.delivered.push((start, start + bytes - 1));
            let late = message.too_late.is_some_and(|late| start + bytes > late);
            assert!(!late, "message {index} went through a session that has expired");
        }
        self.links[message.link].bound = true;
        if self.actors[message.from].inlet.is_some_and(|inlet| Some(inlet) != self.actors[message.from].conn)
        {
            *self.seen.entry("a client behind a relay heard by any connection with it").or_default() += 1;
        }
        if self.actors[message.from].came {
            *self.seen.entry("a far end that came by itself heard").or_default() += 1;
        }
        if frame.flag == Flag::Last && message.success_report {
            let report = Request::new("REPORT", &frame.from_path(), &self.actors[actor].uri)
                .header("Message-ID", &frame.message_id())
                .header("Byte-Range", &format!("1-{0}/{0}", message.total))
                .header("Status", "000 200 OK");
            self.world.send(conn, report.bytes());
        }
    }

    fn report_arrived(&mut self, actor: usize, frame: &Frame) {
        let index = self.message_of(frame);
        // A REPORT is never answered; if a peer still answers it, nothing happens.
        if self.lies && self.dice.chance(20) {
            let conn = self.actors[actor].conn.unwrap();
            self.world.send(conn, frame.response(200));
        }
        let message = &mut self.messages[index];
        assert_eq!(actor, message.from, "a REPORT for another actor");
        if frame.reported() == 200 {
            message.success_reports += 1;
            assert_eq!(message.success_reports, 1, "message {index}");
            return;
        }
        assert_ne!(message.wish, "no", "an unwanted REPORT");
        match frame.reported() {
            408 => *self.seen.entry("a REPORT of 408").or_default() += 1,
            413 => *self.seen.entry("a REPORT of 413").or_default() += 1,
            _ => {}
        }
        assert!(frame.body.is_empty() && frame.flag == Flag::Last);
        let range = frame.range();
        let (start, end) = (range.start - message.base, range.end.unwrap() - message.base);
        assert!(end <= message.sent, "message {index}: {range}");
        // A chunk without bytes may belong to an earlier one that had none.
        let taken_back = start <= end && message.aborted.is_some_and(|from| start >= from);
        assert!(!taken_back, "message {index}: {range} is told of, which its sender aborted");
        message.fail(index, start, end);
    }

    fn response_arrived(&mut self, actor: usize, frame: &Frame) {
        let (code, tid) = (frame.status(), frame.tid());
        let Some(sent) = self.actors[actor].requests.get(tid).cloned() else {
            panic!("a response to nothing: {frame:?}");
        };
        let earlier = self.actors[actor].responses.insert(tid.to_owned(), code);
        assert_eq!(earlier, None, "{tid} answered twice");
        let whole = &self.actors[actor].uri;
        // A SEND is answered to the hop before.
        let back = match sent {
            Sent::Chunk { .. } => whole.split(' ').next().unwrap(),
            _ => whole,
        };
        let is_back =
            frame.to_path() == back || matches!(sent, Sent::Lie(_)) && whole.starts_with(&frame.to_path());
        assert!(is_back, "{frame:?}");
        match sent {
            Sent::Chunk { message, start, bytes, aborted } => {
                self.stop_waiting(actor, frame);
                let Message { link, way, .. } = self.messages[message];
                let addressed = self.links[link].paths[way].split(' ').next().unwrap();
                let [from, addressed] =
                    [&frame.from_path(), addressed].map(|uri| self.by_first_uris(&self.links[link], uri));
                assert_eq!(from, addressed, "an answer from somewhere else");
                let message_index = message;
                let message = &mut self.messages[message];
                match message.wish {
                    "no" => panic!("an unwanted answer"),
                    "partial" => assert_ne!(code, 200),
                    _ => {}
                }
                if code == 481 && message.too_late.is_some_and(|late| start >= late) {
                    *self.seen.entry("an expired session refused").or_default() += 1;
                }
                if code != 200 && !aborted {
                    message.fail(message_index, start, (start + bytes).wrapping_sub(1));
                }
            }
            Sent::Nickname => {
                if code == 200 {
                    self.saw("a nickname answered by its far end");
                }
            }
            Sent::Auth => self.refreshed(actor, frame),
            Sent::Lie(codes) => {
                assert!(codes.contains(&code), "a lie was answered: {frame:?}");
                self.saw(if code == 400 {
                    "an impossible range refused"
                } else {
                    "a forged session refused"
                });
            }
        }
    }

    /// The relay answers a SEND itself: that must not have waited behind more than one flush. (A chunk of
    /// which nothing but the head has been written is not cut, so there may be one flush in between.) When something
    /// breaks, all that waited for it is told of at once, which may fill some flushes by itself: an answer waits behind
    /// those, and behind nothing else.
    fn stop_waiting(&mut self, actor: usize, frame: &Frame) {
        let Actor { waits, told, .. } = &mut self.actors[actor];
        if let Some(at) = waits.iter().position(|wait| wait.tid == frame.tid())
            && let Some(due) = waits.remove(at).due
        {
            let before = told.iter().filter(|(flush, _)| (due..=frame.flush).contains(flush));
            let bytes: usize = before.map(|(_, bytes)| bytes).sum();
            let flushes = due + 2 + (bytes / self.flush_bytes_min) as u64;
            self.seen.entry("a wait for an answer judged").and_modify(|n| *n += 1).or_insert(1);
            assert!(
                frame.flush <= flushes,
                "a response waited for {} flushes with {bytes} bytes of answers",
                frame.flush - due
            );
        }
    }

    fn refreshed(&mut self, actor: usize, frame: &Frame) {
        let conn = self.actors[actor].conn.unwrap();
        let to = self.actors[actor].refresh.clone().unwrap();
        match frame.status() {
            200 if to == relay_uri() => {
                self.actors[actor].refresh = None;
                self.actors[actor].other = frame.header("Use-Path");
                self.saw("a session that got another URI");
                self.change_uris(actor);
            }
            200 => {
                assert_eq!(frame.header("Use-Path").unwrap(), to);
                self.actors[actor].refresh = None;
                self.saw("a session refreshed");
            }
            401 => {
                let value = answer_challenge(frame, "alice", "1234", &to, 1);
                let request =
                    Request::new("AUTH", &to, &self.actors[actor].uri).header("Authorization", &value);
                self.world.send(conn, request.bytes());
                self.actors[actor].requests.insert(request.tid, Sent::Auth);
            }
            408 => self.actors[actor].refresh = None,
            // Its client has ended its side, which ended the session during the look-up.
            481 if self.world.link(conn).ended || self.world.link(conn).closing.is_some() => {
                self.actors[actor].refresh = None;
            }
            _ => panic!("a refresh was refused: {frame:?}"),
        }
    }

    fn arrived_at_stranger(&mut self, at: usize, frame: &Frame) {
        let stranger = &mut self.strangers[at];
        let Some(expected) = stranger.expected.get(frame.tid()) else {
            panic!("a stranger received what is not for it: {frame:?}");
        };
        assert!(expected.codes.contains(&frame.status()), "{expected:?} expected: {frame:?}");
        assert!(stranger.answered.insert(frame.tid().to_owned()), "answered twice: {frame:?}");
        // Refused without a look at its nonce: the same again is no replay.
        if frame.status() == 403 && expected.codes.contains(&200) {
            let replays = stranger.expected.values_mut().filter(|later| later.refusal == REPLAYED);
            replays.for_each(|later| later.codes = GUESSED);
            stranger.authorization = None;
        }
        let expected = &stranger.expected[frame.tid()];
        let seen = match frame.status() {
            200 => "an AUTH accepted",
            506 => "a second claim refused",
            _ => expected.refusal,
        };
        if frame.status() == 401 {
            stranger.challenge = Some(frame.clone());
        }
        self.saw(seen);
    }
}

impl Message {
    fn check_head(&self, index: usize, frame: &Frame) {
        let wish = match frame.head.failure_report() {
            FailureReport::Yes => "yes",
            FailureReport::Partial => "partial",
            FailureReport::No => "no",
        };
        assert_eq!(wish, self.wish, "message {index}");
        assert_eq!(frame.head.success_report(), self.success_report, "message {index}");
        assert_eq!(frame.header("X-Trace").unwrap(), format!("trace {index}"));
        if !frame.body.is_empty() {
            assert_eq!(frame.header("Content-Type").unwrap(), "text/plain");
        }
    }

    pub(super) fn bytes_delivered(&self) -> u64 {
        self.delivered.iter().map(|(start, end)| end - start + 1).sum()
    }

    fn fail(&mut self, index: usize, start: u64, end: u64) {
        let again = self.failed.iter().any(|(s, e)| start <= *e && *s <= end && start <= end);
        assert!(!again, "message {index}: {start}-{end} told of again after {:?}", self.failed);
        self.failed.push((start, end));
    }
}
