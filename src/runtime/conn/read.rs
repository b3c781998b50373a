//! The reader of a connection: what one read brings is decrypted, cut into pieces, and fed to the relay in one go.

use std::cell::Cell;
use std::io;
use std::mem;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use engine::deadline::Deadline;
use futures_lite::future;
use msrp_tls::TlsError;

use super::super::core::{Conn, Phase, Shared};
use super::super::mesh::Received;
use super::super::migrate::{self, Unplaced};
use super::super::pool::{self, PINNED_FACTOR_MAX};
use super::handshake;
use super::write::CLOSE_TIMEOUT;
use msrp_proto::parser::{FramePart, ParseError, Parser};
use msrp_relay_core::{Holder, Input, Limit, ProvenNames, Stage, Target, Transport};

/// How a connection came to be.
#[derive(Debug)]
pub(in crate::runtime) enum Origin {
    /// A client has opened it, by this transport.
    Accepted(Transport),
    /// We have opened it.
    Dialled(Box<Target>),
    /// Another core, or another process, has accepted it, and received so much from it. It may have seen which relay is
    /// at the other end.
    Moved { proven: Option<ProvenNames>, received: Received },
}

/// Why reading ended.
enum ReadEnd {
    /// The connection broke, or ended before it was up.
    Gone(String),
    /// The peer has closed its side in order.
    Ended(&'static str),
    /// We are closing it.
    Closing,
    /// Another core goes on with it.
    HandedOver,
    /// TLS failed; an alert is waiting to be sent.
    Tls(TlsError),
    /// Frames cannot be told apart any more.
    Unparseable(ParseError),
    /// The handshake, or the rest of a head, did not come in time.
    TooSlow(Limit),
}

/// The reading task of a connection.
pub(super) struct Reader {
    core: Rc<Shared>,
    conn: Rc<Conn>,
    /// Whom we called, if it was we who called.
    target: Option<Box<Target>>,
    /// Until it is known on which core the connection belongs.
    unplaced: Option<Unplaced>,
    parser: Parser,
    /// The beginning of a TLS record.
    records: Vec<u8>,
    /// When that record must be complete.
    record_until: Option<Instant>,
    /// The beginning of a head, or of an end-line.
    rest: Vec<u8>,
    told: Told,
}

/// What the relay has been told of the connection.
struct Told {
    /// How far it has got.
    stage: Stage,
    /// How many bytes of a record, or of a piece of a frame, wait for their rest.
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
            parser,
            records: Vec::new(),
            record_until: None,
            rest: Vec::new(),
            told: Told { stage: Stage::Silent, unfinished: 0 },
        };
        let (mut known, mut plain) = (None, Vec::new());
        match origin {
            Origin::Accepted(transport) => reader.unplaced = Some(Unplaced::new(transport)),
            Origin::Dialled(target) => {
                reader.target = Some(target);
                // A peer that was called has nothing to prove.
                reader.told.stage = Stage::Asking;
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

    /// Does what an end of reading asks for.
    async fn end(&self, end: ReadEnd) {
        let (core, conn) = (&self.core, &self.conn);
        let (peer, address) = (conn.key, conn.address());
        match end {
            ReadEnd::Closing | ReadEnd::HandedOver => return,
            ReadEnd::Gone(why) => self.gone(&why),
            ReadEnd::Ended(how) => {
                tracing::debug!(%address, reason = how, "The peer has ended the connection");
                // What waits for it can still be written: the answers to what it sent last.
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
        }
        core.lose(conn);
    }

    fn gone(&self, why: &str) {
        let conn = &self.conn;
        match self.target.as_ref().filter(|_| conn.link.tls.is_some() && !conn.is_up()) {
            // An operator looks for what is wrong with TLS, which often ends without a word of TLS.
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
        // The alert tells the peer why; its arrival is not waited for.
        let alert = mem::take(&mut *conn.link.tls_out.borrow_mut());
        let late = async {
            Deadline::after(CLOSE_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let _ = future::or(conn.link.socket.write_all(&alert), late).await;
    }

    fn unparseable(&self, error: &ParseError) {
        let (peer, address) = (self.conn.key, self.conn.address());
        if self.core.with_relay(|relay| relay.serves_session(peer)) {
            let Holder { session, user } = self.holder();
            tracing::info!(
                %address,
                user,
                session,
                reason = %error,
                "Input cannot be parsed: sessions lose their connection"
            );
        } else {
            tracing::debug!(%address, reason = %error, "Input cannot be parsed");
        }
        if let Some(limit) = limit_of(error) {
            self.core.limit_reached(limit, Some((peer, address)));
        }
    }

    /// Whose connection it is, for the log.
    fn holder(&self) -> Holder {
        self.core.with_relay(|relay| relay.holder(self.conn.key))
    }

    /// Receives until the connection ends, one way or another. `proven` and `plain` are what is known of it, and has been
    /// received from it, already.
    async fn read(&mut self, proven: Option<ProvenNames>, plain: Vec<u8>) -> ReadEnd {
        self.watch_record(true);
        let mut before = Some(plain).filter(|plain| !plain.is_empty());
        if self.conn.is_up() {
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
            let plain = match before.take() {
                Some(plain) => plain,
                None => match self.receive().await {
                    Ok(plain) => plain,
                    Err(end) => return end,
                },
            };
            handshake::go_on(&self.core, &self.conn);
            self.tell_stage();
            let received = Received { records: mem::take(&mut self.records), plain };
            let Some(received) = migrate::settle(&self.core, &self.conn, &mut self.unplaced, received).await
            else {
                return ReadEnd::HandedOver;
            };
            self.records = received.records;
            if let Err(error) = self.parse(received.plain) {
                return ReadEnd::Unparseable(error);
            }
            if self.conn.link.is_closed_by_peer() {
                return ReadEnd::Ended("closed by the peer");
            }
            self.watch_head();
            engine::breathe().await;
        }
    }

    /// Waits while back-pressure lasts: the peer cannot go on with what it has begun, so its time does not count.
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

    /// Waits for bytes, which become plain behind the `rest` of those before them.
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

    /// Something has been received. The relay is told how far that gets the connection, once for each stage.
    fn tell_stage(&mut self) {
        let is_by_tls = self.conn.link.tls.is_some();
        let stage = if self.conn.is_up() && is_by_tls { Stage::Up } else { Stage::Handshake };
        if stage > self.told.stage {
            self.told.stage = stage;
            self.core.feed([Input::Advanced { peer: self.conn.key, stage }]);
        }
    }

    /// A record that has begun must end in time: until then it is in memory, and tells nothing. Before the last read it
    /// had not begun, or there was another, if it is `new`.
    fn watch_record(&mut self, new: bool) {
        if self.records.is_empty() {
            self.record_until = None;
        } else if new || self.record_until.is_none() {
            self.record_until = Some(Instant::now() + self.core.config().limits.record_timeout);
        }
    }

    /// A head that has begun must end in time, whatever comes of it meanwhile (norm S11).
    fn watch_head(&self) {
        let Phase::Up { head_until } = self.conn.phase.get() else { return };
        let head_until = if self.rest.is_empty() || !self.parser.in_head() {
            None
        } else {
            head_until.or_else(|| Some(Instant::now() + self.core.config().limits.head_timeout))
        };
        self.conn.phase.set(Phase::Up { head_until });
    }

    /// Cuts what was received into pieces and feeds them to the relay in one go. Keeps what is left.
    fn parse(&mut self, plain: Vec<u8>) -> Result<(), ParseError> {
        let Self { core, conn, parser, told, .. } = self;
        let (peer, records) = (conn.key, self.records.len());
        let bytes = pool::freeze(plain);
        let mut at = 0;
        let mut failure = None;
        core.feed_with(|relay, now| {
            loop {
                let step = match parser.step(bytes.get(at..).unwrap_or_default()) {
                    Ok(Some(step)) => step,
                    Ok(None) => break,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                };
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
            let unfinished = records + bytes.len() - at;
            if mem::replace(&mut told.unfinished, unfinished) != unfinished {
                relay.handle(now, Input::Unfinished { peer, bytes: unfinished });
            }
        });
        if at > 0 && conn.is_up() {
            // A head that was incomplete is complete now; if another has begun, its time begins.
            conn.phase.set(Phase::Up { head_until: None });
        }
        match failure {
            Some(error) => Err(error),
            None => {
                self.rest = bytes.get(at..).unwrap_or_default().to_vec();
                Ok(())
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

/// Waits for `received` no longer than the handshake, the rest of a head, or that of a record, may take.
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

/// A part of what one read brought: by reference, unless it would keep much more in memory than it
/// is counted for.
fn part(bytes: &Bytes, range: Range<usize>) -> Bytes {
    let wanted = bytes.get(range.clone()).unwrap_or_default();
    if wanted.len() * PINNED_FACTOR_MAX < bytes.len() {
        Bytes::copy_from_slice(wanted)
    } else {
        bytes.slice(range)
    }
}

/// The limit that ended the parsing, if one did.
fn limit_of(error: &ParseError) -> Option<Limit> {
    match error {
        ParseError::StartLine | ParseError::BareLf => None,
        ParseError::HeadTooLong => Some(Limit::HeadBytes),
    }
}
