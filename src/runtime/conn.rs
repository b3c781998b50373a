//! One connection: octets in to the relay, octets out from it.
//!
//! Two tasks share it. The reader waits without holding a buffer, decrypts, parses, and feeds the
//! relay all that one read brought in one go. The writer sleeps until the relay has something, takes
//! one flush of it at a time and writes it in one piece.
//!
//! Invariants: at most one flush is out of the relay's hands; what is held for a connection is bounded
//! by that flush and the relay's queues; the relay hears of the end of a connection once, and only then
//! is its slot free. RFC 4976, 6.2 and 6.5.

use std::cell::{Cell, RefCell};
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future;

use super::core::Shared;
use super::deadline::Deadline;
use super::hand_over::Received;
use super::pool::{self, PINNED_FACTOR_MAX};
use super::records;
use super::sock::Socket;
use super::tasks::Event;
use super::tls::{Client, NotARelay, TlsConn, TlsError, Whose};
use super::trace::Traced;
use crate::proto::parser::{ParseError, Parser, Piece};
use crate::relay::{
    Holder, Input, Limit, OutBatch, PeerKey, ProvenNames, Stage, Target, Transport, WriteState,
};
use crate::telemetry::{Site, Source, gated};
use crate::trust::{Asker, TlsFault, shown_names};

/// How long a peer may take to close its side after we have closed ours.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that is to be closed may take to accept what is still queued for it.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// What the tasks of a connection share with the core.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) key: PeerKey,
    pub(super) socket: Socket,
    pub(super) tls: Option<RefCell<Box<TlsConn>>>,
    /// Handshake, alerts, key updates: what TLS itself has to send.
    tls_out: RefCell<Vec<u8>>,
    address: SocketAddr,
    /// Where it was accepted, until it is known on which core it belongs.
    pub(super) fresh: Cell<Option<Transport>>,
    /// What looks for that in a first head that comes in many pieces.
    pub(super) probe: RefCell<Option<Box<Parser>>>,
    /// We dialled it, and the relay has not yet heard that it is up.
    dialling: Cell<bool>,
    /// Whom we dialled.
    target: Option<Box<Target>>,
    /// The names of the relay at the other end, if another core or process has seen the proof.
    proven: RefCell<Option<ProvenNames>>,
    /// How far it has got, as far as the relay was told.
    stage: Cell<Stage>,
    /// Frames can be sent and received.
    up: Cell<bool>,
    /// When TLS must have got as far as its keys; later, when a head that has begun must be complete.
    deadline: Cell<Option<Instant>>,
    /// When a TLS record that has begun must be complete.
    record_deadline: Cell<Option<Instant>>,
    closing_since: Cell<Option<Instant>>,
    /// What the relay has been told of a record, or a piece of a frame, whose rest is awaited.
    unfinished: Cell<usize>,
    paused: Cell<bool>,
    resumed: Event,
    closing: Cell<bool>,
    stop_reading: Event,
    pub(crate) writable: Event,
    /// The writer has something in hand.
    writing: Cell<bool>,
    /// Who watches; nobody, as a rule.
    pub(super) traced: RefCell<Vec<Traced>>,
    lost: Cell<bool>,
    /// TLS can encrypt no more: what is queued cannot be sent.
    broken: Cell<bool>,
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

impl Conn {
    /// One that a client has opened.
    pub(crate) fn accepted(
        key: PeerKey,
        socket: Socket,
        address: SocketAddr,
        tls: Option<TlsConn>,
        transport: Transport,
    ) -> Self {
        let conn = Self::new(key, socket, address, tls.map(Box::new));
        conn.fresh.set(Some(transport));
        conn
    }

    /// One that we have opened.
    pub(crate) fn dialled(
        key: PeerKey,
        socket: Socket,
        address: SocketAddr,
        tls: Option<TlsConn>,
        target: &Target,
    ) -> Self {
        let conn = Self::new(key, socket, address, tls.map(Box::new));
        conn.dialling.set(true);
        // Who was called has nothing to prove.
        conn.stage.set(Stage::Asking);
        Self { target: Some(Box::new(target.clone())), ..conn }
    }

    /// One that another core has accepted; see [`HandOver`](super::hand_over::HandOver).
    pub(crate) fn resumed(
        key: PeerKey,
        socket: Socket,
        address: SocketAddr,
        tls: Option<Box<TlsConn>>,
        proven: Option<ProvenNames>,
    ) -> Self {
        let conn = Self::new(key, socket, address, tls);
        conn.up.set(true);
        Self { proven: RefCell::new(proven), ..conn }
    }

    fn new(key: PeerKey, socket: Socket, address: SocketAddr, tls: Option<Box<TlsConn>>) -> Self {
        Self {
            key,
            socket,
            tls: tls.map(RefCell::new),
            tls_out: RefCell::new(Vec::new()),
            address,
            fresh: Cell::new(None),
            probe: RefCell::new(None),
            dialling: Cell::new(false),
            target: None,
            proven: RefCell::new(None),
            stage: Cell::new(Stage::Silent),
            up: Cell::new(false),
            deadline: Cell::new(None),
            record_deadline: Cell::new(None),
            closing_since: Cell::new(None),
            unfinished: Cell::new(0),
            paused: Cell::new(false),
            resumed: Event::default(),
            closing: Cell::new(false),
            stop_reading: Event::default(),
            writable: Event::default(),
            writing: Cell::new(false),
            traced: RefCell::default(),
            lost: Cell::new(false),
            broken: Cell::new(false),
        }
    }

    /// Starts the two tasks.
    pub(crate) fn start(self: Rc<Self>, shared: &Rc<Shared>, received: Received) {
        if !self.up.get() {
            self.deadline.set(Some(Instant::now() + shared.limits().handshake_timeout));
        }
        shared.counters.connections_open.add(1);
        let (conn, core) = (Rc::clone(&self), Rc::clone(shared));
        shared.tasks.spawn(async move { conn.write_loop(&core).await });
        let core = Rc::clone(shared);
        shared.tasks.spawn(async move { self.read(&core, received).await });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Back-pressure, on or off.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.set(paused);
        if !paused {
            self.resumed.notify();
        }
    }

    /// Reads no more; what is queued is written, then the connection closes.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.closing_since.set(self.closing_since.get().or_else(|| Some(Instant::now())));
        self.stop_reading.notify();
        self.writable.notify();
    }

    /// Ends at once: nothing more is written, and the peer is not waited for.
    pub(crate) fn abort(&self, shared: &Rc<Shared>) {
        // It fails only if the peer is gone already.
        let _ = self.socket.reset_when_closed();
        self.lose(shared);
    }

    // -- reading -------------------------------------------------------------------------------

    async fn read(self: Rc<Self>, shared: &Rc<Shared>, received: Received) {
        let end = self.read_loop(shared, received).await;
        let (peer, address) = (self.key, self.address);
        match end {
            ReadEnd::Closing | ReadEnd::HandedOver => return,
            ReadEnd::Gone(why) => match self.target.as_ref().filter(|_| self.tls.is_some() && !self.up.get())
            {
                // An operator looks for what is wrong with TLS, which often ends without a word of TLS.
                Some(target) => log_silence(target, shared.with_relay(|relay| relay.holder(peer)), &why),
                None => tracing::debug!(%address, reason = why, "Connection gone"),
            },
            ReadEnd::Ended(how) => {
                tracing::debug!(%address, reason = how, "The peer has ended the connection");
                // What waits for it can still be written: the answers to what it sent last.
                shared.feed([Input::Ended { peer }]);
                return;
            }
            ReadEnd::TooSlow(limit) => shared.limit_reached(limit, Some((peer, address))),
            ReadEnd::Tls(error) => {
                let counters = &shared.counters;
                let failures = match self.up.get() {
                    true => &counters.tls_record_failures,
                    false => &counters.tls_handshake_failures,
                };
                failures.add(1);
                match &self.target {
                    Some(target) => {
                        log_failure(target, shared.with_relay(|relay| relay.holder(peer)), &error)
                    }
                    None => tracing::debug!(%address, reason = %error, "TLS failed"),
                }
                // The alert tells the peer why; nobody waits for it to arrive.
                let alert = mem::take(&mut *self.tls_out.borrow_mut());
                let _ = future::or(self.socket.write_all(&alert), late(CLOSE_TIMEOUT)).await;
            }
            ReadEnd::Unparseable(error) => {
                if shared.with_relay(|relay| relay.serves_session(peer)) {
                    let Holder { session, user } = shared.with_relay(|relay| relay.holder(peer));
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
                if let Some(limit) = limit_of(&error) {
                    shared.limit_reached(limit, Some((peer, address)));
                }
                shared.feed([Input::Unparseable { peer }]);
                return;
            }
        }
        self.lose(shared);
    }

    /// Receives until the connection ends, one way or another.
    async fn read_loop(&self, shared: &Rc<Shared>, received: Received) -> ReadEnd {
        let mut parser = Parser::new(shared.limits().parser());
        // Octets of TLS records, and of frames, that are not complete yet.
        let (mut records, mut rest) = (received.records, Vec::new());
        self.watch_record(shared, records.len(), true);
        let mut before = Some(received.plain).filter(|plain| !plain.is_empty());
        if let Err(end) = self.begin(shared) {
            return end;
        }
        loop {
            while self.paused.get() && !self.closing.get() {
                let since = Instant::now();
                future::or(self.resumed.wait(), self.stop_reading.wait()).await;
                self.record_deadline.set(self.record_deadline.get().map(|at| at + since.elapsed()));
                if self.up.get() && self.deadline.take().is_some() {
                    // While it was not read from, the peer could not go on.
                    self.deadline.set(Some(Instant::now() + shared.limits().head_timeout));
                }
            }
            if self.closing.get() {
                return ReadEnd::Closing;
            }
            let plain = match before.take() {
                Some(plain) => plain,
                None => match self.receive(shared, &mut records, &rest).await {
                    Ok(plain) => plain,
                    Err(end) => return end,
                },
            };
            self.after_receive(shared);
            self.tell_stage(shared);
            let Received { records: left, plain } = {
                let received = Received { records: mem::take(&mut records), plain };
                match self.hand_over(shared, received).await {
                    Some(received) => received,
                    None => return ReadEnd::HandedOver,
                }
            };
            records = left;
            match self.parse(shared, &mut parser, plain, records.len()) {
                Ok(left) => rest = left,
                Err(error) => return ReadEnd::Unparseable(error),
            }
            if self.peer_closed() {
                return ReadEnd::Ended("closed by the peer");
            }
            if self.up.get() {
                self.watch_head(shared, &parser, &rest);
            }
            engine::breathe().await;
        }
    }

    /// Waits for octets, which become plain behind the `rest` of those before them.
    async fn receive(
        &self,
        shared: &Rc<Shared>,
        records: &mut Vec<u8>,
        rest: &[u8],
    ) -> Result<Vec<u8>, ReadEnd> {
        let before = records.len();
        let used_some = Cell::new(false);
        let received = self.socket.read_with(&shared.scratch, records, |octets| {
            let (used, plain) = self.decrypt(octets, rest);
            used_some.set(used > 0);
            (used, plain)
        });
        let stopped = async {
            self.stop_reading.wait().await;
            None
        };
        let received = future::or(self.in_time(async { Some(received.await) }), stopped).await;
        self.watch_record(shared, records.len(), before == 0 || used_some.get());
        match received {
            None if self.closing.get() => Err(ReadEnd::Closing),
            None => Err(ReadEnd::TooSlow(self.late_for())),
            Some(Err(error)) => Err(ReadEnd::Gone(error.to_string())),
            Some(Ok(None)) if self.up.get() => Err(ReadEnd::Ended("end of stream")),
            Some(Ok(None)) => Err(ReadEnd::Gone("end of stream".to_owned())),
            Some(Ok(Some(Err(error)))) => Err(ReadEnd::Tls(error)),
            Some(Ok(Some(Ok(plain)))) => Ok(plain),
        }
    }

    /// Sends a client's first flight; a plain connection is up at once.
    fn begin(&self, shared: &Rc<Shared>) -> Result<(), ReadEnd> {
        if self.up.get() {
            self.identify(shared);
        }
        let client = self.dialling.get() && self.tls.is_some();
        if client && let (_, Err(error)) = self.decrypt(&mut [], &[]) {
            return Err(ReadEnd::Tls(error));
        }
        self.after_receive(shared);
        Ok(())
    }

    /// Octets as received become octets as sent by the peer, behind the `rest` that was left over.
    fn decrypt(&self, octets: &mut [u8], rest: &[u8]) -> (usize, Result<Vec<u8>, TlsError>) {
        let mut plain = pool::take(rest.len() + octets.len());
        plain.extend_from_slice(rest);
        match &self.tls {
            None => {
                plain.extend_from_slice(octets);
                (octets.len(), Ok(plain))
            }
            Some(tls) => match tls.borrow_mut().receive(octets, &mut plain, &mut self.tls_out.borrow_mut()) {
                Ok(used) => (used, Ok(plain)),
                Err(error) => (octets.len(), Err(error)),
            },
        }
    }

    /// TLS may have something to send, and may have just become ready.
    fn after_receive(&self, shared: &Rc<Shared>) {
        if !self.tls_out.borrow().is_empty() {
            self.writable.notify();
        }
        let ready = self.tls.as_ref().is_none_or(|tls| tls.borrow().handshake_done());
        if !ready || self.up.replace(true) {
            return;
        }
        if let Some(tls) = &self.tls {
            let tls = tls.borrow();
            let counters = &shared.counters;
            let handshakes = match tls.describe().version {
                Some("TLSv1_2") => &counters.tls12_handshakes,
                _ => &counters.tls13_handshakes,
            };
            handshakes.add(1);
            tracing::debug!(address = %self.address, agreed = %tls.describe(), records = ?tls.record_layer(), "TLS is up");
        }
        if self.dialling.take() {
            self.deadline.set(None);
            tracing::debug!(address = %self.address, "Connected");
            shared.feed([Input::Connected { peer: self.key }]);
        } else {
            self.deadline.set(None);
            let tls = self.tls.as_ref();
            if tls.is_some_and(|tls| matches!(tls.borrow().peer(), Client::Relay(_))) {
                shared.counters.relays_recognised.add(1);
            }
            self.identify(shared);
        }
    }

    /// Something has been received. The relay is told how far that gets the connection, once for each stage.
    fn tell_stage(&self, shared: &Rc<Shared>) {
        let stage = if self.up.get() && self.tls.is_some() { Stage::Up } else { Stage::Handshake };
        if stage > self.stage.get() {
            self.stage.set(stage);
            shared.feed([Input::Advanced { peer: self.key, stage }]);
        }
    }

    /// Tells the relay if a relay is at the other end, before anything that has come from there.
    fn identify(&self, shared: &Rc<Shared>) {
        let (peer, address) = (self.key, self.address);
        let names = match self.tls.as_ref().map(|tls| tls.borrow().peer().clone()) {
            None | Some(Client::Unknown) => self.proven.take(),
            Some(Client::Relay(names)) => ProvenNames::new(names),
            // As a rule an endpoint with a certificate of its own making.
            Some(Client::Other(why)) if matches!(*why, NotARelay::UnknownIssuer | NotARelay::Unusable) => {
                tracing::debug!(%address, reason = %why, "The client is not taken for a relay");
                None
            }
            Some(Client::Other(why)) => {
                let source = Source::address(address.ip());
                gated!(info, Site::NotARelay, source, { %address, reason = %why }, "The client is not taken for a relay");
                None
            }
        };
        if let Some(names) = names {
            let shown = shown_names(names.iter());
            tracing::debug!(%address, names = shown, "A relay has proven its name");
            shared.feed([Input::Identified { peer, names }]);
        }
    }

    /// A record that has begun must end in time: until then it is in memory, and tells nothing. `bytes` have come of it;
    /// before the last read it had not begun, or there was another, if it is `new`.
    fn watch_record(&self, shared: &Rc<Shared>, bytes: usize, new: bool) {
        if bytes == 0 {
            self.record_deadline.set(None);
        } else if new || self.record_deadline.get().is_none() {
            self.record_deadline.set(Some(Instant::now() + shared.limits().record_timeout));
        }
    }

    /// A head that has begun must end in time, whatever comes of it meanwhile (norm S11).
    fn watch_head(&self, shared: &Rc<Shared>, parser: &Parser, rest: &[u8]) {
        if rest.is_empty() || !parser.in_head() {
            self.deadline.set(None);
        } else if self.deadline.get().is_none() {
            self.deadline.set(Some(Instant::now() + shared.limits().head_timeout));
        }
    }

    /// Cuts what was received into pieces and feeds them to the relay in one go. Returns what is left.
    /// `records` is how much of a TLS record waits for its rest.
    fn parse(
        &self,
        shared: &Rc<Shared>,
        parser: &mut Parser,
        plain: Vec<u8>,
        records: usize,
    ) -> Result<Vec<u8>, ParseError> {
        let peer = self.key;
        let octets = pool::freeze(plain);
        let mut at = 0;
        let mut failure = None;
        shared.feed_with(|relay, now, fx| {
            loop {
                let step = match parser.step(octets.get(at..).unwrap_or_default()) {
                    Ok(Some(step)) => step,
                    Ok(None) => break,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                };
                let input = match step.piece {
                    Piece::Head(head) => {
                        for traced in self.traced.borrow().iter() {
                            traced.received(octets.get(at..at + step.consumed).unwrap_or_default());
                        }
                        Input::Head { peer, head, octets: part(&octets, at..at + step.consumed) }
                    }
                    Piece::Body(range) => {
                        Input::Body { peer, octets: part(&octets, at + range.start..at + range.end) }
                    }
                    Piece::End(flag) => Input::End { peer, flag },
                    Piece::Blank => Input::Blank { peer, octets: step.consumed },
                };
                at += step.consumed;
                relay.handle(now, input, fx);
            }
            let bytes = records + octets.len() - at;
            if self.unfinished.replace(bytes) != bytes {
                relay.handle(now, Input::Unfinished { peer, bytes }, fx);
            }
        });
        if at > 0 && self.up.get() {
            // A head that was incomplete is complete now; if another has begun, its time begins.
            self.deadline.set(None);
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(octets.get(at..).unwrap_or_default().to_vec()),
        }
    }

    /// Waits for `received` no longer than the handshake, the rest of a head, or that of a record, may take.
    async fn in_time<T>(&self, received: impl Future<Output = Option<T>>) -> Option<T> {
        let deadlines = [self.deadline.get(), self.record_deadline.get()];
        match deadlines.into_iter().flatten().min() {
            None => received.await,
            Some(deadline) => {
                let too_late = async {
                    Deadline::at(deadline).await;
                    None
                };
                future::or(received, too_late).await
            }
        }
    }

    fn late_for(&self) -> Limit {
        let now = Instant::now();
        match self.up.get() {
            false => Limit::HandshakeTimeout,
            true if self.deadline.get().is_some_and(|at| at <= now) => Limit::HeadTimeout,
            true => Limit::RecordTimeout,
        }
    }

    fn peer_closed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().peer_closed())
    }

    // -- writing -------------------------------------------------------------------------------

    async fn write_loop(self: Rc<Self>, shared: &Rc<Shared>) {
        loop {
            self.writing.set(false);
            self.writable.wait().await;
            self.writing.set(true);
            loop {
                if self.lost.get() {
                    return;
                }
                let mut out = shared.buffers.take();
                let state = self.next_flush(shared, &mut out);
                let empty = out.is_empty();
                let written = self.write_flush(shared, &out).await;
                shared.buffers.give(out);
                if let Err(error) = written {
                    tracing::debug!(address = %self.address, reason = %error, "Connection gone");
                    return self.lose(shared);
                }
                if self.broken.get() {
                    return self.lose(shared);
                }
                if state == WriteState::Finished {
                    return self.finish(shared).await;
                }
                if empty {
                    break;
                }
                engine::breathe().await;
            }
        }
    }

    /// Fills `out` with what may be sent now: first what TLS has to say, then one flush of the relay's.
    fn next_flush(&self, shared: &Rc<Shared>, out: &mut Vec<u8>) -> WriteState {
        out.append(&mut self.tls_out.borrow_mut());
        let is_traced = !self.traced.borrow().is_empty();
        let in_between = is_traced && shared.with_relay(|relay| relay.is_between_frames(self.key));
        let trace = |flush: &OutBatch| {
            for traced in self.traced.borrow().iter() {
                traced.sent(flush.parts(), in_between, || Parser::new(shared.limits().parser()));
            }
        };
        let Some(tls) = &self.tls else {
            return shared.next_flush(self.key, |flush, _| {
                trace(flush);
                flush.parts().for_each(|part| out.extend_from_slice(part));
            });
        };
        if !self.up.get() {
            return if self.closing.get() { WriteState::Finished } else { WriteState::Open };
        }
        shared.next_flush(self.key, |flush, seam| {
            trace(flush);
            let mut tls = tls.borrow_mut();
            if let Err(error) = records::cut(flush.parts(), seam, |record| tls.encrypt(record, out)) {
                let (address, source) = (self.address, Source::address(self.address.ip()));
                gated!(warn, Site::CannotEncrypt, source, { %address, reason = %error }, "Cannot encrypt");
                self.broken.set(true);
            }
        })
    }

    /// Writes one flush. A peer that takes nothing for `limits.write_timeout` is given up (norm S14); one
    /// that is being closed gets only so long for all that is left.
    async fn write_flush(&self, shared: &Rc<Shared>, mut out: &[u8]) -> std::io::Result<()> {
        while !out.is_empty() {
            let stalled = async {
                Deadline::after(shared.limits().write_timeout).await;
                None
            };
            let written = async { Some(self.socket.write(out).await) };
            match future::or(written, stalled).await {
                None => {
                    shared.limit_reached(Limit::WriteTimeout, Some((self.key, self.address)));
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                Some(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Some(Ok(written)) => out = out.get(written..).unwrap_or_default(),
                Some(Err(error)) => return Err(error),
            }
            if self.closing_since.get().is_some_and(|since| since.elapsed() > LAST_FLUSH_TIMEOUT) {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Everything is written: close in order, so that no tail is cut off by a reset.
    async fn finish(&self, shared: &Rc<Shared>) {
        let mut farewell = Vec::new();
        if let Some(tls) = &self.tls {
            tls.borrow_mut().close_notify(&mut farewell);
        }
        let said = future::or(self.socket.write_all(&farewell), late(CLOSE_TIMEOUT)).await;
        if said.is_ok() {
            self.socket.close_gracefully(&shared.scratch, CLOSE_TIMEOUT).await;
        }
        self.lose(shared);
    }

    /// The connection is over: told to the relay once.
    fn lose(&self, shared: &Rc<Shared>) {
        if self.lost.replace(true) {
            return;
        }
        // Whichever task is still waiting sees the end.
        let _ = self.socket.shutdown_both();
        self.count_out(shared);
    }

    /// The same for a connection that goes on elsewhere.
    pub(super) fn leave(&self, shared: &Rc<Shared>) {
        if !self.lost.replace(true) {
            self.count_out(shared);
        }
    }

    fn count_out(&self, shared: &Rc<Shared>) {
        self.closing.set(true);
        self.stop_reading.notify();
        self.writable.notify();
        shared.counters.connections_open.sub(1);
        let peer = self.key;
        // What the relay has to say of its end still finds its address.
        shared.feed([if self.dialling.get() { Input::DialFailed { peer } } else { Input::Lost { peer } }]);
        shared.forget(peer);
    }

    /// Nothing is to be written, and nobody wants to close it.
    pub(super) fn is_quiet(&self) -> bool {
        let idle = self.tls_out.borrow().is_empty() && !self.writing.get();
        self.up.get() && idle && !self.closing.get()
    }
}

/// A part of what one read brought: by reference, unless it would keep much more in memory than it
/// is counted for.
fn part(octets: &Bytes, range: Range<usize>) -> Bytes {
    let wanted = octets.get(range.clone()).unwrap_or_default();
    if wanted.len() * PINNED_FACTOR_MAX < octets.len() {
        Bytes::copy_from_slice(wanted)
    } else {
        octets.slice(range)
    }
}

/// The limit that ended the parsing, if one did.
fn limit_of(error: &ParseError) -> Option<Limit> {
    match error {
        ParseError::StartLine | ParseError::BareLf => None,
        ParseError::HeadTooLong => Some(Limit::HeadBytes),
    }
}

async fn late(after: Duration) -> std::io::Result<()> {
    Deadline::after(after).await;
    Err(std::io::ErrorKind::TimedOut.into())
}

/// Says that a connection which we opened has ended instead of TLS beginning.
fn log_silence(target: &Target, Holder { session, user }: Holder, why: &str) {
    let (host, port, is_relay) = (&target.host, target.port, target.relay);
    let fault = TlsFault::Silent(format!("it has closed the connection instead of shaking hands: {why}"));
    let reason = fault.explained(Asker::Relay);
    gated!(
        info,
        Site::NextHop,
        Source::of(host),
        { host, port, is_relay, user, session, reason },
        "TLS with a next hop failed"
    );
}

/// Says what went wrong with TLS on a connection that we opened, and with whose certificate if it was that.
fn log_failure(target: &Target, Holder { session, user }: Holder, error: &TlsError) {
    let (host, port, is_relay) = (&target.host, target.port, target.relay);
    let (site, source, reason) = (Site::NextHop, Source::of(host), error.explained());
    match error.whose_certificate() {
        Some(Whose::Theirs) => gated!(
            info,
            site,
            source,
            { host, port, is_relay, user, session, reason },
            "The certificate of a next hop is refused"
        ),
        Some(Whose::Ours) => gated!(
            info,
            site,
            source,
            { host, port, is_relay, user, session, reason },
            "A next hop refuses our certificate"
        ),
        None => gated!(
            info,
            site,
            source,
            { host, port, is_relay, user, session, reason },
            "TLS with a next hop failed"
        ),
    }
}
