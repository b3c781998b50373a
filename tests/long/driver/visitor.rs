//! A new connection: asks and waits for the answer, one at a time, until it becomes a party.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use super::line::{Arrived, End, Leave, Line, Reader, dial};
use super::stage::{Stage, add};
use testkit_net::frame::{Frame, Request, fresh_id};

/// The name of a relay that stands alone.
const HOST: &str = "localhost";

pub(crate) struct Visitor {
    pub(crate) stage: Arc<Stage>,
    pub(crate) line: Arc<Line>,
    pub(crate) reader: Reader,
    pub(crate) uri: String,
    pub(crate) session: Option<String>,
    pub(crate) next_nonce: Option<String>,
    frames: VecDeque<Frame>,
    end: Option<End>,
    partial: Option<(msrp_proto::head::Head, Vec<u8>)>,
}

/// How to connect.
#[derive(Clone, Copy)]
pub(crate) struct Approach {
    pub(crate) from: Ipv4Addr,
    pub(crate) tls: bool,
    pub(crate) old_tls: bool,
    /// The size of the kernel's receive buffer, if the kernel does not choose.
    pub(crate) window: Option<usize>,
}

impl Visitor {
    pub(crate) fn connect(stage: &Arc<Stage>, approach: Approach) -> Result<Self, String> {
        let address = if approach.tls { stage.tls } else { stage.plain };
        Self::connect_to(stage, address, HOST, approach)
    }

    /// The same to another relay, at this address and of this name.
    pub(crate) fn connect_to(
        stage: &Arc<Stage>,
        address: SocketAddr,
        host: &str,
        approach: Approach,
    ) -> Result<Self, String> {
        let wrong = |error| format!("cannot connect: {error}");
        let stream = dial(address, approach.from, approach.window).map_err(wrong)?;
        add(&stage.tally.connections, 1);
        let config = approach.tls.then(|| &stage.clients[usize::from(approach.old_tls)]);
        let halves = Line::open(stream, host, config).map_err(wrong)?;
        let scheme = if approach.tls { "msrps" } else { "msrp" };
        let uri = format!("{scheme}://{}.invalid:2855/{};tcp", approach.from, fresh_id());
        Ok(Self::new(stage, halves, uri))
    }

    /// An endpoint that the relay has connected to.
    pub(crate) fn accepted(
        stage: &Arc<Stage>,
        stream: TcpStream,
        tls: bool,
        uri: String,
    ) -> Result<Self, String> {
        let halves = Line::accept(stream, tls.then_some(&stage.endpoint));
        Ok(Self::new(stage, halves.map_err(|error| format!("the relay's TLS: {error}"))?, uri))
    }

    fn new(stage: &Arc<Stage>, (line, reader): (Arc<Line>, Reader), uri: String) -> Self {
        let stage = Arc::clone(stage);
        Self {
            stage,
            line,
            reader,
            uri,
            session: None,
            next_nonce: None,
            frames: VecDeque::new(),
            end: None,
            partial: None,
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), String> {
        self.line.write(bytes).map_err(|error| format!("cannot write: {error}"))
    }

    /// The next frame, or how the connection ended.
    pub(crate) fn frame(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            if let Some(end) = self.end {
                return Err(end);
            }
            let (partial, frames) = (&mut self.partial, &mut self.frames);
            // The last frame may come in one piece with the end.
            let pumped = self.reader.pump(usize::MAX, |arrived| match arrived {
                Arrived::Head(head, bytes) => *partial = Some((head, bytes.to_vec())),
                Arrived::Body(_) => {}
                Arrived::End(flag) => frames.extend(partial.take().map(|(head, bytes)| Frame {
                    head,
                    bytes,
                    body: Vec::new(),
                    flag,
                })),
            });
            self.end = pumped.err();
        }
    }

    /// Sends a request without a body and waits for its response.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Frame, String> {
        let tid = request.tid();
        self.write(&request.bare())?;
        match self.frame() {
            Ok(frame) if frame.status().is_some() && frame.tid() == tid => Ok(frame),
            Ok(frame) => Err(format!("not the response to {tid}: {frame:?}")),
            Err(end) => Err(format!("no response to {tid}: {end:?}")),
        }
    }

    /// AUTH without credentials, then with them; returns the status.
    pub(crate) fn log_in(&mut self, user: &str, password: &str, expires: Option<u64>) -> Result<u16, String> {
        let relay = self.stage.auth_uri();
        let frame = self.authenticate(&relay, &relay, (user, password), expires)?;
        let tally = &self.stage.tally;
        if frame.status() == Some(200) {
            self.session = frame.header("Use-Path");
            let info = frame.head.authentication_info(&frame.bytes);
            let info = info.map(String::from_utf8_lossy).unwrap_or_default();
            self.next_nonce =
                info.split("nextnonce=\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        } else {
            add(&tally.auths_refused, 1);
        }
        Ok(frame.status().unwrap_or_default())
    }

    /// Both rounds of an AUTH for the last relay of `to`; the last answer.
    pub(crate) fn authenticate(
        &mut self,
        to: &str,
        relay: &str,
        (user, password): (&str, &str),
        expires: Option<u64>,
    ) -> Result<Frame, String> {
        let asked = self.ask(Request::new("AUTH", to, &self.uri))?;
        let challenge = asked.header("WWW-Authenticate").ok_or_else(|| format!("no challenge: {asked:?}"))?;
        let authorization = Stage::login(user, password, relay).answer(&challenge);
        let mut request = Request::new("AUTH", to, &self.uri).header("Authorization", &authorization);
        if let Some(seconds) = expires {
            request = request.header("Expires", &seconds.to_string());
        }
        let frame = self.ask(request)?;
        if frame.status() == Some(200) {
            add(&self.stage.tally.auths, 1);
            add(&self.stage.tally.sessions, 1);
        }
        Ok(frame)
    }

    /// Closes in order and waits for the other side to do so.
    pub(crate) fn close(mut self) -> Result<(), String> {
        self.line.leave(Leave::InOrder);
        match self.frame() {
            Err(End::Broken) => Err("closed in order, answered with a reset".to_owned()),
            Err(_) => Ok(()),
            Ok(frame) => Err(format!("nothing was to come: {frame:?}")),
        }
    }
}
