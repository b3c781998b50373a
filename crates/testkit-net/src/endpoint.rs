//! One connection of a test: blocking, plain or over TLS, its two directions usable from two threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msrp_proto::head::Head;
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use msrp_relay_core::SessionId;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::PATIENCE;
use crate::frame::{Frame, Request, fresh_id};
use crate::websocket::{ACCEPT, BINARY, CLOSE, Incoming, client_frame, upgrade_request};

/// The relay's host name: in its certificate and its URIs. It resolves nowhere.
pub const HOST: &str = "relay.example.test";

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In order: over TLS with close_notify, then the end of the stream.
    Clean,
    /// The end of the stream without close_notify.
    Truncated,
    /// A reset, or TLS failed.
    Broken,
}

/// An MSRP endpoint with one connection.
pub struct Endpoint {
    /// Its own URI.
    pub uri: String,
    /// The session URI that its relay gave it.
    pub relay: Option<String>,
    pub reader: Reader,
    pub writer: Writer,
}

pub struct Reader {
    stream: TcpStream,
    tls: Option<Arc<Mutex<Connection>>>,
    parser: Parser,
    plain: Vec<u8>,
    at: usize,
    partial: Option<(Head, Vec<u8>, Vec<u8>)>,
    pub end: Option<End>,
    /// How it reads from its socket.
    pub pace: Pace,
    /// Bytes read from the socket so far, those of TLS included.
    pub bytes_read: u64,
    /// Where it is a WebSocket.
    pub websocket: Option<Incoming>,
}

/// How fast an endpoint takes what it is sent.
#[derive(Clone, Copy)]
pub struct Pace {
    /// The most bytes taken at a time.
    pub bytes: usize,
    /// The rest after each time.
    pub rest: Duration,
}

impl Default for Pace {
    /// As fast as it can.
    fn default() -> Self {
        Self { bytes: 64 << 10, rest: Duration::ZERO }
    }
}

pub struct Writer {
    stream: TcpStream,
    tls: Option<Arc<Mutex<Connection>>>,
    /// What is written at once is a message.
    is_websocket: bool,
    /// A message has begun, and its last fragment is not written.
    in_message: bool,
}

impl Endpoint {
    /// Connects without TLS.
    pub fn plain(address: SocketAddr, name: &str) -> Self {
        Self::new(TcpStream::connect(address).unwrap(), None, name)
    }

    /// Connects with TLS; the certificate must be good for the relay's host name.
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), config, name)
    }

    /// TLS over a connection whose options the test has set.
    pub fn over(stream: TcpStream, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::to_host(stream, config, name, HOST)
    }

    /// The same with a relay of another name.
    pub fn to_host(mut stream: TcpStream, config: &Arc<ClientConfig>, name: &str, host: &str) -> Self {
        patient(&stream);
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), host).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        Self::new(stream, Some(tls.into()), name)
    }

    /// Connects with TLS and upgrades to WebSocket.
    pub fn wss(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::tls(address, config, name).upgrade(name)
    }

    /// The same without TLS.
    pub fn ws(address: SocketAddr, name: &str) -> Self {
        Self::plain(address, name).upgrade(name)
    }

    /// Becomes a WebSocket.
    #[track_caller]
    pub fn upgrade(mut self, name: &str) -> Self {
        let answer = self.ask_http(&upgrade_request(""));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: msrp\r\n"), "{answer}");
        self.go_on_as_websocket(name);
        self
    }

    /// From here on there are messages.
    pub fn go_on_as_websocket(&mut self, name: &str) {
        self.uri = format!("msrps://{name}{}.invalid:2855/{};ws", fresh_id(), fresh_id());
        let mut incoming = Incoming::default();
        let behind = std::mem::take(&mut self.reader.plain);
        incoming.take(&behind, &mut self.reader.plain);
        self.reader.websocket = Some(incoming);
        self.writer.is_websocket = true;
    }

    /// Sends a request of HTTP, returns the head of the answer. What follows stays where it is.
    #[track_caller]
    pub fn ask_http(&mut self, request: &str) -> String {
        self.writer.write(request.as_bytes());
        loop {
            let plain = &mut self.reader.plain;
            if let Some(end) = plain.windows(4).position(|four| four == b"\r\n\r\n") {
                return String::from_utf8(plain.drain(..end + 4).collect()).unwrap();
            }
            assert_eq!(self.reader.end, None, "the connection ended: {:?}", String::from_utf8_lossy(plain));
            self.reader.receive();
        }
    }

    /// What has come by WebSocket.
    pub fn incoming(&self) -> &Incoming {
        self.reader.websocket.as_ref().unwrap()
    }

    /// Waits for a connection.
    pub fn accept_plain(listener: &TcpListener, uri: &str) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let mut endpoint = Self::new(stream, None, "");
        uri.clone_into(&mut endpoint.uri);
        endpoint
    }

    /// Waits for a connection, then takes the server's part in TLS.
    pub fn accept_tls(listener: &TcpListener, config: &Arc<ServerConfig>, uri: &str) -> Self {
        let (mut stream, _) = listener.accept().unwrap();
        patient(&stream);
        let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        let mut endpoint = Self::new(stream, Some(tls.into()), "");
        uri.clone_into(&mut endpoint.uri);
        endpoint
    }

    fn new(stream: TcpStream, tls: Option<Connection>, name: &str) -> Self {
        patient(&stream);
        stream.set_nodelay(true).unwrap();
        let scheme = if tls.is_some() { "msrps" } else { "msrp" };
        // What came in one piece with the end of the handshake.
        let mut plain = Vec::new();
        let tls = tls.map(|mut tls| {
            let waiting = tls.process_new_packets().unwrap().plaintext_bytes_to_read();
            plain.resize(waiting, 0);
            tls.reader().read_exact(&mut plain).unwrap();
            Arc::new(Mutex::new(tls))
        });
        let reading = stream.try_clone().unwrap();
        Self {
            uri: format!("{scheme}://{name}.invalid:2855/{};tcp", fresh_id()),
            relay: None,
            reader: Reader {
                stream: reading,
                tls: tls.clone(),
                parser: Parser::new(ParserLimits::default()),
                plain,
                at: 0,
                partial: None,
                end: None,
                pace: Pace::default(),
                bytes_read: 0,
                websocket: None,
            },
            writer: Writer { stream, tls, is_websocket: false, in_message: false },
        }
    }

    /// The path that SDP would give to the other side.
    pub fn path(&self) -> String {
        match &self.relay {
            Some(relay) => format!("{relay} {}", self.uri),
            None => self.uri.clone(),
        }
    }

    /// To-Path of a request to the peer with the path `peer`.
    pub fn route(&self, peer: &str) -> String {
        match &self.relay {
            Some(relay) => format!("{relay} {peer}"),
            None => peer.to_owned(),
        }
    }

    /// Sends a whole request and returns its transaction id.
    pub fn send(&mut self, request: Request, body: &[u8]) -> String {
        let tid = request.tid();
        self.writer.write(&request.with_body(body, Flag::Last));
        tid
    }

    /// Sends a request without a body and returns its transaction id.
    pub fn send_bare(&mut self, request: Request) -> String {
        let tid = request.tid();
        self.writer.write(&request.bare());
        tid
    }

    /// Sends a short message and returns its transaction id.
    pub fn say(&mut self, peer: &str, words: &[u8]) -> String {
        let range = format!("1-{0}/{0}", words.len());
        let request = Request::send(&self.route(peer), &self.uri.clone(), &fresh_id(), &range);
        self.send(request, words)
    }

    /// One short message to another client, and its answer.
    #[track_caller]
    pub fn chat(&mut self, to: &mut Self, words: &[u8]) {
        let tid = self.say(&to.path(), words);
        assert_eq!(self.status(&tid), 200);
        assert_eq!(to.request("SEND").body, words);
    }

    /// The next frame.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.reader.next_frame() {
            Ok(frame) => frame,
            Err(end) => panic!("{}: a frame was expected, the end came: {end:?}", self.uri),
        }
    }

    /// The next frame, which must be the response with this transaction id.
    #[track_caller]
    pub fn response(&mut self, tid: &str) -> Frame {
        let frame = self.frame();
        assert!(frame.status().is_some() && frame.tid() == tid, "no response to {tid}: {frame:?}");
        frame
    }

    /// The status of the next frame, which must be the response with this transaction id.
    #[track_caller]
    pub fn status(&mut self, tid: &str) -> u16 {
        self.response(tid).status().unwrap_or_default()
    }

    /// The next frame, which must be a request; answers it 200 if an answer is due.
    #[track_caller]
    pub fn request(&mut self, method: &str) -> Frame {
        let frame = self.frame();
        assert!(frame.is_request(method), "no {method}: {frame:?}");
        if method != "REPORT" {
            self.writer.write(&frame.response("200 OK"));
        }
        frame
    }

    /// Waits for the end, before which no further frame may come.
    #[track_caller]
    pub fn end(&mut self) -> End {
        match self.reader.next_frame() {
            Ok(frame) => panic!("the end was expected: {frame:?}"),
            Err(end) => end,
        }
    }

    /// Closes in order.
    pub fn close(mut self) {
        if self.writer.is_websocket {
            // What has been shut down before takes it no more.
            let _ = self.writer.try_write_below(&client_frame(CLOSE, &1000_u16.to_be_bytes()));
        }
        self.writer.close_notify();
        let _ = self.writer.stream.shutdown(Shutdown::Write);
    }

    /// Ends the stream without close_notify.
    pub fn truncate(&self) {
        let _ = self.writer.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let stream = socket2::SockRef::from(&self.writer.stream);
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// For a test in which the other side is silent for longer than [`PATIENCE`].
    pub fn wait_for(&self, patience: Duration) {
        self.writer.stream.set_read_timeout(Some(patience)).unwrap();
        self.writer.stream.set_write_timeout(Some(patience)).unwrap();
    }

    /// The connection below TLS.
    pub fn stream(&self) -> &TcpStream {
        &self.writer.stream
    }

    /// The core its session is at home on, which is the one that accepted its connection.
    pub fn core(&self) -> usize {
        let uri = self.relay.as_deref().unwrap_or_default();
        let id = uri.rsplit('/').next().and_then(|id| SessionId::parse(id.trim_end_matches(";tcp")));
        usize::from(id.unwrap().home().index)
    }

    /// The version of TLS that was agreed.
    pub fn tls_version(&self) -> Option<rustls::ProtocolVersion> {
        let tls = self.writer.tls.as_ref()?.lock().unwrap();
        tls.protocol_version()
    }
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

impl Reader {
    /// The next whole frame, or how the connection ended. The test fails if neither comes in time.
    #[track_caller]
    pub fn next_frame(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.parse() {
                return Ok(frame);
            }
            if let Some(end) = self.end {
                return Err(end);
            }
            self.receive();
        }
    }

    /// Reads until a chunk has begun and so many bytes of its body have come; returns its head.
    #[track_caller]
    pub fn part_of_chunk(&mut self, body_bytes: usize) -> String {
        loop {
            if let Some(frame) = self.parse() {
                panic!("the chunk ended: {frame:?}");
            }
            if let Some((_, head, body)) = &self.partial
                && body.len() >= body_bytes
            {
                return String::from_utf8_lossy(head).into_owned();
            }
            assert_eq!(self.end, None, "the connection ended in mid-chunk");
            self.receive();
        }
    }

    /// Waits for the end, whatever comes before it.
    #[track_caller]
    pub fn until_end(&mut self) -> End {
        loop {
            if let Err(end) = self.next_frame() {
                return end;
            }
        }
    }

    /// Reads until the end, whatever it is that comes.
    pub fn until_close(&mut self) -> End {
        loop {
            match self.end {
                Some(end) => return end,
                None => self.receive(),
            }
        }
    }

    /// What has come and is no frame.
    pub fn take_plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    /// Parses what is at hand, up to the end of a frame.
    fn parse(&mut self) -> Option<Frame> {
        while let Some(step) = self.parser.step(&self.plain[self.at..]).unwrap() {
            let bytes = &self.plain[self.at..self.at + step.consumed];
            self.at += step.consumed;
            match step.piece {
                FramePart::Blank => panic!("the relay writes blank lines"),
                FramePart::Head(head) => self.partial = Some((head, bytes.to_vec(), Vec::new())),
                FramePart::Body(range) => {
                    let (_, _, body) = self.partial.as_mut().unwrap();
                    body.extend_from_slice(&bytes[range]);
                }
                FramePart::End(flag) => {
                    let (head, bytes, body) = self.partial.take().unwrap();
                    return Some(Frame { head, bytes, body, flag });
                }
            }
        }
        self.plain.drain(..self.at);
        self.at = 0;
        None
    }

    fn keep(&mut self, plain: &[u8]) {
        match &mut self.websocket {
            Some(incoming) => incoming.take(plain, &mut self.plain),
            None => self.plain.extend_from_slice(plain),
        }
    }

    /// Reads from the socket once.
    #[track_caller]
    pub fn receive(&mut self) {
        let mut bytes = vec![0; self.pace.bytes];
        let read = match self.stream.read(&mut bytes) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}")
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(_) => return self.end = Some(End::Broken),
        };
        self.bytes_read += read as u64;
        if !self.pace.rest.is_zero() {
            std::thread::sleep(self.pace.rest);
        }
        let Some(tls) = &self.tls else {
            self.keep(&bytes[..read]);
            if read == 0 {
                self.end = Some(End::Clean);
            }
            return;
        };
        let tls = Arc::clone(tls);
        let mut tls = tls.lock().unwrap();
        if read == 0 {
            let told = tls.process_new_packets().is_ok_and(|state| state.peer_has_closed());
            self.end = Some(if told { End::Clean } else { End::Truncated });
            return;
        }
        let mut records = &bytes[..read];
        while !records.is_empty() {
            let processed =
                tls.read_tls(&mut records).and_then(|_| tls.process_new_packets().map_err(io::Error::other));
            match processed {
                Ok(state) => {
                    let mut plain = vec![0; state.plaintext_bytes_to_read()];
                    tls.reader().read_exact(&mut plain).unwrap();
                    self.keep(&plain);
                    if state.peer_has_closed() {
                        return;
                    }
                }
                Err(_) => return self.end = Some(End::Broken),
            }
        }
    }
}

impl Writer {
    /// Writes all of it, however little the kernel takes at a time.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).unwrap();
    }

    /// The same where the other side may be gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.is_websocket {
            true => self.try_write_below(&client_frame(BINARY, bytes)),
            false => self.try_write_below(bytes),
        }
    }

    /// A part of a frame, and by WebSocket a fragment of its message; others follow unless it is the last.
    #[track_caller]
    pub fn write_part(&mut self, bytes: &[u8], is_last: bool) {
        if !self.is_websocket {
            return self.write(bytes);
        }
        let opcode = if self.in_message { 0 } else { BINARY & 0x0f };
        self.in_message = !is_last;
        self.write_below(&client_frame(opcode | if is_last { 0x80 } else { 0 }, bytes));
    }

    /// Bytes as they are below WebSocket.
    #[track_caller]
    pub fn write_below(&mut self, bytes: &[u8]) {
        self.try_write_below(bytes).unwrap();
    }

    /// The same where the other side may be gone.
    pub fn try_write_below(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return self.stream.write_all(bytes);
        };
        for part in bytes.chunks(32 << 10) {
            let mut records = Vec::with_capacity(part.len() + 64);
            {
                let mut tls = tls.lock().unwrap();
                tls.writer().write_all(part)?;
                while tls.wants_write() {
                    tls.write_tls(&mut records)?;
                }
            }
            self.stream.write_all(&records)?;
        }
        Ok(())
    }

    /// Writes bytes in TLS records of so many bytes each, all at once, or as far as the other side takes them.
    pub fn try_write_in_records(&mut self, bytes: &[u8], of: usize) -> io::Result<()> {
        let mut records = Vec::new();
        if let Some(tls) = &self.tls {
            let mut tls = tls.lock().unwrap();
            for part in bytes.chunks(of) {
                tls.writer().write_all(part)?;
                tls.write_tls(&mut records)?;
            }
        }
        self.stream.write_all(&records)
    }

    /// The last bytes, and close_notify with them.
    pub fn write_last(&mut self, bytes: &[u8]) {
        let mut records = Vec::new();
        if let Some(tls) = &self.tls {
            let mut tls = tls.lock().unwrap();
            tls.writer().write_all(bytes).unwrap();
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut records).unwrap();
            }
        }
        self.stream.write_all(&records).unwrap();
    }

    /// Renews the keys of this direction, and asks the other side to do the same with its own.
    pub fn try_renew_keys(&mut self) -> io::Result<()> {
        let mut records = Vec::new();
        if let Some(tls) = &self.tls {
            let mut tls = tls.lock().unwrap();
            tls.refresh_traffic_keys().map_err(io::Error::other)?;
            while tls.wants_write() {
                tls.write_tls(&mut records)?;
            }
        }
        self.stream.write_all(&records)
    }

    /// Bytes that bypass TLS, as a broken peer would send them.
    pub fn write_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn close_notify(&mut self) {
        if let Some(tls) = &self.tls {
            let mut records = Vec::new();
            let mut tls = tls.lock().unwrap();
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut records).unwrap();
            }
            // The other side may have closed already.
            let _ = self.stream.write_all(&records);
        }
    }
}
