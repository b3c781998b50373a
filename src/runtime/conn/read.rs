//! The reader of a connection: decrypts what one read brings, cuts it into parts of frames, and feeds them to the relay
//! at once.

use std::cell::Cell;
use std::io;
use std::mem;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use engine::deadline::Deadline;
use futures_lite::future;
use msrp_tls::TlsError;
use msrp_ws::close_code;
use msrp_ws::upgrade::Refusal;

use super::super::core::{Conn, Phase, Shared};
use super::super::mesh::Received;
use super::super::migrate::{self, Next, Unplaced};
use super::super::pool::{self, part};
use super::super::websocket::{Came, Inward};
use super::handshake;
use super::write::CLOSE_TIMEOUT;
use crate::telemetry::{Site, Source, gated};
use msrp_proto::parser::{FramePart, ParseError, Parser, Step};
use msrp_relay_core::{Holder, Input, Limit, Meeting, ProvenNames, Stage, Target, Transport};

/// How a connection came to be.
#[derive(Debug)]
pub(in crate::runtime) enum Origin {
    /// A peer has opened it, by this transport.
    Accepted(Transport),
    /// We have opened it.
    Dialled(Box<Target>),
    /// Another core, or another process, has accepted it, and received these bytes from it. That one may have seen
    /// which relay is at the other end.
    Moved { proven: Option<ProvenNames>, received: Received },
    /// It has come here from another core with its session, and with so much that has been received from it.
    Arrived(Received),
}

/// What was read and not fed, from a head on that the relay wants to wait with.
struct Held {
    bytes: Bytes,
    at: usize,
    head: Step,
}

/// Why reading ended.
enum ReadEnd {
    /// The connection broke, or ended before it was up.
    Gone(String),
    /// The peer has closed its side in order.
    Ended(&'static str),
    /// We are closing it.
    Closing,
    /// Another core continues with it.
    HandedOver,
    /// TLS failed; an alert waits to be sent.
    Tls(TlsError),
    /// The end of a frame cannot be found.
    Unparseable(ParseError),
    /// The peer has broken the protocol of WebSocket, or a message has ended within a frame.
    NoMessage(String),
    /// It is not upgraded to WebSocket: the answer waits to be sent.
    NotUpgraded(Refusal),
    /// The handshake, or the rest of a head, did not come in time.
    TooSlow(Limit),
}

/// The reading task of a connection.
pub(super) struct Reader {
    core: Rc<Shared>,
    conn: Rc<Conn>,
    /// The next hop, if we opened the connection.
    target: Option<Box<Target>>,
    /// Present until it is known which core the connection belongs to.
    unplaced: Option<Unplaced>,
    /// What takes the bytes of messages out of a WebSocket.
    inward: Option<Box<Inward>>,
    parser: Parser,
    /// The beginning of a TLS record.
    records: Vec<u8>,
    /// When that record must be complete.
    record_until: Option<Instant>,
    /// The beginning of a head, or of an end-line.
    rest: Vec<u8>,
    told: Told,
    /// Whether the relay is asked about each head: until its client's session is bound.
    asks: bool,
}

/// What the relay knows of the connection.
struct Told {
    /// Its stage.
    stage: Stage,
    /// How many bytes of a record, or of a part of a frame, wait for their rest.
    unfinished: usize,
}

impl Reader {
    /// Receives until the connection ends, and says how.
    pub(super) async fn run(core: Rc<Shared>, conn: Rc<Conn>, origin: Origin) {
        let parser = Parser::new(core.config().limits.parser());
        let mut reader = Self {
            core,
            conn,
            target: None,
            unplaced: None,
            inward: None,
            parser,
            records: Vec::new(),
            record_until: None,
            rest: Vec::new(),
            told: Told { stage: Stage::Silent, unfinished: 0 },
            asks: true,
        };
        let (mut known, mut plain) = (None, Vec::new());
        match origin {
            // Its first request is an AUTH, for the core where it is.
            Origin::Accepted(Transport { websocket: true, .. }) => {
                reader.inward = Some(Box::new(Inward::new()));
            }
            Origin::Accepted(transport) => reader.unplaced = Some(Unplaced::new(transport)),
            Origin::Dialled(target) => {
                reader.target = Some(target);
                // A peer that we called has nothing to prove.
                reader.told.stage = Stage::Asking;
                reader.asks = false;
            }
            Origin::Arrived(received) => {
                reader.told.stage = Stage::Asking;
                reader.asks = false;
                reader.inward = received.inward;
                reader.records = received.records;
                plain = received.plain;
            }
            Origin::Moved { proven, received } => {
                known = proven;
                reader.records = received.records;
                plain = received.plain;
            }
        }
        let end = reader.read(known, plain).await;
        reader.end(end).await;
    }

    /// Does what the end of reading requires.
    async fn end(&self, end: ReadEnd) {
        let (core, conn) = (&self.core, &self.conn);
        let (peer, address) = (conn.key, conn.address());
        match end {
            ReadEnd::Closing | ReadEnd::HandedOver => return,
            ReadEnd::Gone(why) => self.gone(&why),
            ReadEnd::Ended(how) => {
                tracing::debug!(%address, reason = how, "The peer has ended the connection");
                // Queued bytes can still be written: the answers to its last requests.
                core.feed([Input::Ended { peer }]);
                return;
            }
            ReadEnd::TooSlow(limit) => core.limit_reached(limit, Some((peer, address))),
            ReadEnd::Tls(error) => self.tls_failed(&error).await,
            ReadEnd::Unparseable(error) => {
                self.unparseable(&error);
                core.feed([Input::Unparseable { peer }]);
                return;
            }
            ReadEnd::NoMessage(why) => {
                self.lost_framing(&why);
                core.feed([Input::Unparseable { peer }]);
                return;
            }
            ReadEnd::NotUpgraded(refusal) => {
                self.not_upgraded(&refusal);
                core.feed([Input::Unparseable { peer }]);
                return;
            }
        }
        core.lose(conn);
    }

    fn gone(&self, why: &str) {
        let conn = &self.conn;
        match self.target.as_ref().filter(|_| conn.link.tls.is_some() && !conn.is_up()) {
            // The operator looks for errors of TLS, which often end without an alert.
            Some(target) => handshake::log_silence(target, self.holder(), why),
            None => tracing::debug!(address = %conn.address(), reason = why, "Connection gone"),
        }
    }

    async fn tls_failed(&self, error: &TlsError) {
        let (conn, counters) = (&self.conn, &self.core.counters);
        let failures = match conn.is_up() {
            true => &counters.tls_record_failures,
            false => &counters.tls_handshake_failures,
        };
        failures.add(1);
        match &self.target {
            Some(target) => handshake::log_failure(target, self.holder(), error),
            None => tracing::debug!(address = %conn.address(), reason = %error, "TLS failed"),
        }
        // The alert tells the peer why; nothing waits for its arrival.
        let alert = mem::take(&mut *conn.link.tls_out.borrow_mut());
        let late = async {
            Deadline::after(CLOSE_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let _ = future::or(conn.link.socket.write_all(&alert), late).await;
    }

    fn unparseable(&self, error: &ParseError) {
        self.lost_framing(&error.to_string());
        if let Some(limit) = limit_of(error) {
            self.core.limit_reached(limit, Some((self.conn.key, self.conn.address())));
        }
    }

    fn not_upgraded(&self, refusal: &Refusal) {
        let (address, reason, status) = (self.conn.address(), refusal.why, refusal.status);
        self.core.counters.websocket_refusals.add(1);
        match &refusal.origin {
            Some(origin) => {
                let source = Source::address(address.ip());
                gated!(info, Site::Origin, source, { %address, status, origin, reason }, "A page may not connect");
            }
            None => tracing::debug!(%address, status, reason, "Not upgraded to WebSocket"),
        }
    }

    fn lost_framing(&self, reason: &str) {
        let (peer, address) = (self.conn.key, self.conn.address());
        if self.core.with_relay(|relay| relay.serves_session(peer)) {
            let Holder { session, user } = self.holder();
            tracing::info!(
                %address,
                user,
                session,
                reason,
                "Input cannot be parsed: sessions lose their connection"
            );
        } else {
            tracing::debug!(%address, reason, "Input cannot be parsed");
        }
    }

    /// The session and user of the connection, for the log.
    fn holder(&self) -> Holder {
        self.core.with_relay(|relay| relay.holder(self.conn.key))
    }

    /// Receives until the connection ends. `proven` and `plain` are what is already known of it and received from it.
    async fn read(&mut self, proven: Option<ProvenNames>, plain: Vec<u8>) -> ReadEnd {
        self.watch_record(true);
        let mut before = Some(plain).filter(|plain| !plain.is_empty());
        // Who is at the other end of one that came with its session is known.
        if self.conn.is_up() && self.told.stage == Stage::Silent {
            handshake::identify(&self.core, &self.conn, proven);
        }
        if let Err(error) = handshake::begin(&self.conn) {
            return ReadEnd::Tls(error);
        }
        handshake::go_on(&self.core, &self.conn);
        loop {
            self.wait_while_paused().await;
            if self.conn.is_ending() {
                return ReadEnd::Closing;
            }
            let (mut plain, is_new) = match before.take() {
                Some(plain) => (plain, false),
                None => match self.receive().await {
                    Ok(plain) => (plain, true),
                    Err(end) => return end,
                },
            };
            // What has come here with the connection are bytes of frames already.
            if is_new && let Err(end) = self.take_from_websocket(&mut plain) {
                return end;
            }
            handshake::go_on(&self.core, &self.conn);
            self.tell_stage();
            let received = Received { records: mem::take(&mut self.records), plain, inward: None };
            let Some(received) = migrate::settle(&self.core, &self.conn, &mut self.unplaced, received).await
            else {
                return ReadEnd::HandedOver;
            };
            self.records = received.records;
            let mut held = match self.parse(pool::freeze(received.plain), (0, None)) {
                Ok(held) => held,
                Err(end) => return end,
            };
            while let Some(Held { bytes, at, head }) = held {
                // Boxed: nearly every reader does this at most once.
                if let Some(end) = Box::pin(self.wait_to_meet(&bytes, at)).await {
                    return end;
                }
                held = match self.parse(bytes, (at, Some(head))) {
                    Ok(held) => held,
                    Err(end) => return end,
                };
            }
            if let Some(end) = self.inward.as_ref().and_then(|inward| end_of(inward)) {
                return end;
            }
            if self.conn.link.is_closed_by_peer() {
                return ReadEnd::Ended("closed by the peer");
            }
            self.watch_head();
            engine::breathe().await;
        }
    }

    /// The relay wants to wait with the head at a place of what was received, and so with everything from there on: its
    /// connection may belong on another core. Returns when the head is to be fed here, or says how reading ends.
    async fn wait_to_meet(&mut self, bytes: &[u8], at: usize) -> Option<ReadEnd> {
        let Self { core, conn, records, inward, .. } = self;
        loop {
            conn.reading.may_go_on().await;
            if conn.is_ending() {
                return Some(ReadEnd::Closing);
            }
            let taken = || {
                let inward = inward.take().map(|mut inward| {
                    inward.move_to(at);
                    inward
                });
                let plain = bytes.get(at..).unwrap_or_default().to_vec();
                Received { records: mem::take(records), plain, inward }
            };
            match migrate::depart(core, conn, taken) {
                Next::Wait => {}
                Next::GoOn => return None,
                Next::Left => return Some(ReadEnd::HandedOver),
            }
        }
    }

    /// Waits while back-pressure lasts. The peer cannot continue meanwhile, so this time does not count against it.
    async fn wait_while_paused(&mut self) {
        let (core, conn) = (&self.core, &self.conn);
        while conn.reading.is_paused() && !conn.is_ending() {
            let since = Instant::now();
            future::or(conn.reading.resumed(), conn.reading.stopped()).await;
            self.record_until = self.record_until.map(|at| at + since.elapsed());
            if let Phase::Up { head_until: Some(_) } = conn.phase.get() {
                let head_until = Some(Instant::now() + core.config().limits.head_timeout);
                conn.phase.set(Phase::Up { head_until });
            }
        }
    }

    /// Waits for bytes, and appends their plaintext to the `rest` of earlier ones.
    async fn receive(&mut self) -> Result<Vec<u8>, ReadEnd> {
        let until = self.conn.phase.get().until().into_iter().chain(self.record_until).min();
        let Self { core, conn, records, rest, .. } = self;
        let before = records.len();
        let used_some = Cell::new(false);
        let received = conn.link.socket.read_with(&core.scratch, records, |bytes| {
            let (used, plain) = handshake::decrypt(&conn.link, bytes, rest);
            used_some.set(used > 0);
            (used, plain)
        });
        let stopped = async {
            conn.reading.stopped().await;
            None
        };
        let received = future::or(in_time(until, async { Some(received.await) }), stopped).await;
        self.watch_record(before == 0 || used_some.get());
        match received {
            None if self.conn.is_ending() => Err(ReadEnd::Closing),
            None => Err(ReadEnd::TooSlow(self.late_for())),
            Some(Err(error)) => Err(ReadEnd::Gone(error.to_string())),
            Some(Ok(None)) if self.conn.is_up() => Err(ReadEnd::Ended("end of stream")),
            Some(Ok(None)) => Err(ReadEnd::Gone("end of stream".to_owned())),
            Some(Ok(Some(Err(error)))) => Err(ReadEnd::Tls(error)),
            Some(Ok(Some(Ok(plain)))) => Ok(plain),
        }
    }

    /// Bytes have been received. Tells the relay each new stage of the connection once.
    fn tell_stage(&mut self) {
        let is_by_tls = self.conn.link.tls.is_some();
        let stage = if self.conn.is_up() && is_by_tls { Stage::Up } else { Stage::Handshake };
        if stage > self.told.stage {
            self.told.stage = stage;
            self.core.feed([Input::Advanced { peer: self.conn.key, stage }]);
        }
    }

    /// A record that has begun must end in time: until then it takes memory and tells nothing. If it is `new`, there
    /// was none, or another one, before the last read.
    fn watch_record(&mut self, new: bool) {
        if self.records.is_empty() {
            self.record_until = None;
        } else if new || self.record_until.is_none() {
            self.record_until = Some(Instant::now() + self.core.config().limits.record_timeout);
        }
    }

    /// A head that has begun must end in time, whatever comes of it meanwhile (req S11).
    fn watch_head(&self) {
        let Phase::Up { head_until } = self.conn.phase.get() else { return };
        let is_within_header = self.inward.as_ref().is_some_and(|inward| inward.unfinished() > 0);
        let is_within_head = !self.rest.is_empty() && self.parser.in_head();
        let head_until = if !is_within_head && !is_within_header {
            None
        } else {
            head_until.or_else(|| Some(Instant::now() + self.core.config().limits.head_timeout))
        };
        self.conn.phase.set(Phase::Up { head_until });
    }

    /// Leaves of what was received, where it has come by WebSocket, the bytes of messages: behind the rest of earlier ones.
    fn take_from_websocket(&mut self, plain: &mut Vec<u8>) -> Result<(), ReadEnd> {
        let Self { core, conn, rest, inward, .. } = self;
        let (Some(inward), Some(websocket)) = (inward, &conn.link.websocket) else { return Ok(()) };
        match inward.take_in(websocket, &core.config().websocket.upgrade, plain, rest.len()) {
            Came::Unfinished | Came::Messages => {}
            Came::Refused(refusal) => {
                conn.link.send_first(&refusal.response).map_err(ReadEnd::Tls)?;
                return Err(ReadEnd::NotUpgraded(refusal));
            }
            Came::Upgraded(response) => {
                conn.link.send_first(&response).map_err(ReadEnd::Tls)?;
                core.counters.websocket_upgrades.add(1);
                tracing::debug!(address = %conn.address(), "Upgraded to WebSocket");
            }
        }
        if websocket.owes_control() {
            conn.writing.wake();
        }
        Ok(())
    }

    /// Cuts what was received, from where it is told, into pieces and feeds them to the relay in one go. Keeps what is left, and
    /// gives back what the relay wants to wait with. It may be told of a head, too, that was cut before and may be fed now. No
    /// frame goes on beyond where a message of a WebSocket ends.
    fn parse(
        &mut self,
        bytes: Bytes,
        (mut at, mut first): (usize, Option<Step>),
    ) -> Result<Option<Held>, ReadEnd> {
        let Self { core, conn, parser, told, asks, inward, .. } = self;
        let (peer, mut unfinished) = (conn.key, self.records.len());
        let (mut ends, mut frames): (&[usize], _) = (&[], 0);
        if let Some(inward) = inward {
            (ends, frames) = (inward.ends(), inward.frames);
            unfinished += inward.unfinished();
        }
        // Those before a head that has waited have been noted.
        let (is_resumed, from) = (first.is_some(), at);
        let mut message_ends = ends.iter().copied().skip_while(|end| is_resumed && *end <= from);
        let mut message_end = message_ends.next();
        let mut failure = None;
        let mut held = None;
        core.feed_with(|relay, now| {
            loop {
                let upto = message_end.unwrap_or(bytes.len());
                let may = first.is_some();
                let step = match first.take().map_or_else(
                    || parser.step(bytes.get(at..upto).unwrap_or_default()),
                    |step| Ok(Some(step)),
                ) {
                    Ok(Some(step)) => step,
                    Ok(None) if message_end.is_none() => break,
                    Ok(None) if at == upto && !parser.in_frame() => {
                        message_end = message_ends.next();
                        note_frames(conn, mem::take(&mut frames));
                        continue;
                    }
                    Ok(None) => {
                        failure = Some(ReadEnd::NoMessage("a message ends within a frame".to_owned()));
                        break;
                    }
                    Err(error) => {
                        failure = Some(ReadEnd::Unparseable(error));
                        break;
                    }
                };
                if *asks
                    && !may
                    && let FramePart::Head(head) = &step.piece
                {
                    let text = bytes.get(at..at + step.consumed).unwrap_or_default();
                    match relay.meet(now, peer, head, text) {
                        Meeting::Never => *asks = false,
                        Meeting::NotNow => {}
                        Meeting::Asked => {
                            held = Some(step);
                            break;
                        }
                    }
                }
                frames += usize::from(matches!(step.piece, FramePart::Head(_)));
                let input = match step.piece {
                    FramePart::Head(head) => {
                        conn.watchers.received(bytes.get(at..at + step.consumed).unwrap_or_default());
                        Input::Head { peer, head, bytes: part(&bytes, at..at + step.consumed) }
                    }
                    FramePart::Body(range) => {
                        Input::Body { peer, bytes: part(&bytes, at + range.start..at + range.end) }
                    }
                    FramePart::End(flag) => Input::End { peer, flag },
                    FramePart::Blank => Input::Blank { peer, bytes: step.consumed },
                };
                at += step.consumed;
                relay.handle(now, input);
            }
            unfinished += bytes.len() - at;
            if mem::replace(&mut told.unfinished, unfinished) != unfinished {
                relay.handle(now, Input::Unfinished { peer, bytes: unfinished });
            }
        });
        if let Some(inward) = inward {
            inward.frames = frames;
        }
        if let (Some(_), Some(websocket)) = (&failure, &conn.link.websocket) {
            websocket.close_with(close_code::PROTOCOL_ERROR);
        }
        if at > 0 && conn.is_up() {
            // The unfinished head is complete; if another one has begun, its time begins.
            conn.phase.set(Phase::Up { head_until: None });
        }
        match (failure, held) {
            (Some(end), _) => Err(end),
            (None, Some(head)) => Ok(Some(Held { bytes, at, head })),
            (None, None) => {
                self.rest = bytes.get(at..).unwrap_or_default().to_vec();
                Ok(None)
            }
        }
    }

    fn late_for(&self) -> Limit {
        let now = Instant::now();
        match self.conn.phase.get() {
            Phase::Dialling { .. } | Phase::Accepting { .. } => Limit::HandshakeTimeout,
            Phase::Up { head_until: Some(until) } if until <= now => Limit::HeadTimeout,
            Phase::Up { .. } => Limit::RecordTimeout,
        }
    }
}

/// How reading ends by what has come by WebSocket, once all before that is fed.
fn end_of(inward: &Inward) -> Option<ReadEnd> {
    match (inward.error(), inward.close()) {
        (Some(error), _) => Some(ReadEnd::NoMessage(error.to_string())),
        (None, Some(_)) => Some(ReadEnd::Ended("closed by the peer")),
        (None, None) => None,
    }
}

/// Waits for `received` no longer than the handshake, or the rest of a head or record, may take.
async fn in_time<T>(until: Option<Instant>, received: impl Future<Output = Option<T>>) -> Option<T> {
    match until {
        None => received.await,
        Some(until) => {
            let too_late = async {
                Deadline::at(until).await;
                None
            };
            future::or(received, too_late).await
        }
    }
}

/// A message of which all frames have come should have had one (RFC 7977, 5.1).
fn note_frames(conn: &Conn, frames: usize) {
    if frames > 1 && conn.link.websocket.as_ref().is_some_and(|websocket| websocket.note_several()) {
        let (address, source) = (conn.address(), Source::address(conn.address().ip()));
        gated!(
            info,
            Site::SeveralFrames,
            source,
            { %address, frames },
            "The client sends several frames in one WebSocket message"
        );
    }
}

/// The limit that ended the parsing, if one did.
fn limit_of(error: &ParseError) -> Option<Limit> {
    match error {
        ParseError::StartLine | ParseError::BareLf => None,
        ParseError::HeadTooLong => Some(Limit::HeadBytes),
    }
}
