//! The upgrade of an HTTP/1.1 connection, at both ends (RFC 6455, 4; RFC 7977, 4.1).
//!
//! Invariants: a request is at most [`REQUEST_BYTES_MAX`] with at most [`HEADERS_MAX`] headers, so is a response; what is
//! no upgrade to the subprotocol `msrp` is refused with a status that says what was wrong, and a sentence that says what
//! to do. What a peer has sent is repeated in one place alone, the origin, which is one line.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;
use sha1::{Digest as _, Sha1};

/// The longest request, and response, in bytes.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;
/// The most headers of one.
pub const HEADERS_MAX: usize = 64;

/// What the key is joined with before it is hashed (RFC 6455, 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const PROTOCOL: &str = "msrp";
const VERSION: &str = "13";
/// Bytes of a key.
const KEY_BYTES: usize = 16;

/// Pages of which hosts may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Any, and what is no page.
    #[default]
    Any,
    /// These, as `https://chat.example.com`, and what is no page: that sends no Origin, or any it likes.
    Listed(Vec<String>),
}

impl Origins {
    fn admit(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|one| one.eq_ignore_ascii_case(origin)),
        }
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// More must come.
    Unfinished,
    /// It is one. Frames follow.
    Accepted {
        /// The 101.
        response: Vec<u8>,
        /// How long the request was. What stands behind it are frames.
        consumed: usize,
    },
    /// It is none, or none that is welcome.
    Refused(Refusal),
}

/// A request that is refused. The connection is to be closed.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The whole answer.
    pub response: Vec<u8>,
    /// Its status.
    pub status: u16,
    /// Why.
    pub why: &'static str,
    /// The page's host, where that is why.
    pub origin: Option<String>,
}

/// What a server accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of whose pages.
    pub origins: Origins,
    /// At this path alone.
    pub path: String,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { origins: Origins::Any, path: "/".to_owned() }
    }
}

type Headers<'h, 'b> = &'h [httparse::Header<'b>];

/// A status, and what to do.
type Fault = (u16, &'static str);

impl Wanted {
    /// Judges what has been received of a request.
    #[must_use]
    pub fn judge(&self, received: &[u8]) -> Upgrade {
        let head = received.get(..REQUEST_BYTES_MAX).unwrap_or(received);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let consumed = match request.parse(head) {
            Ok(httparse::Status::Complete(consumed)) => consumed,
            Ok(httparse::Status::Partial) if received.len() < REQUEST_BYTES_MAX => {
                return Upgrade::Unfinished;
            }
            Ok(httparse::Status::Partial) => return refused((431, "the request is longer than 8 KiB"), None),
            Err(httparse::Error::TooManyHeaders) => {
                return refused((431, "the request has more than 64 headers"), None);
            }
            Err(_) => {
                return refused(
                    (
                        400,
                        "this port speaks WebSocket (RFC 7977): send an HTTP/1.1 upgrade, or MSRP to the MSRP port",
                    ),
                    None,
                );
            }
        };
        let headers = &*request.headers;
        let (key, origin) = match self.check(&request, headers) {
            Ok(found) => found,
            Err(fault) => return refused(fault, None),
        };
        if let Some(origin) = origin.filter(|origin| !self.origins.admit(origin)) {
            let why = "pages of this origin may not connect: websocket.origins does not list it";
            return refused((403, why), Some(origin.to_owned()));
        }
        Upgrade::Accepted { response: accepted(key, origin), consumed }
    }

    /// Its key, and its Origin.
    fn check<'b>(
        &self,
        request: &httparse::Request<'_, 'b>,
        headers: Headers<'_, 'b>,
    ) -> Result<(&'b str, Option<&'b str>), Fault> {
        if request.method != Some("GET") {
            return Err((405, "an upgrade is a GET"));
        }
        if request.version != Some(1) {
            return Err((505, "an upgrade is of HTTP/1.1"));
        }
        let path = request.path.unwrap_or_default();
        if path.split('?').next() != Some(&self.path) {
            return Err((404, "there is nothing at this path: see websocket.path"));
        }
        let malformed = |why| move |()| (400, why);
        let one = |name, why| single(headers, name).map_err(malformed(why));
        one("Host", "more than one Host, or one that is no text")?.ok_or((400, "no Host"))?;
        if !has_token(headers, "Connection", "upgrade") || !has_token(headers, "Upgrade", "websocket") {
            return Err((426, "this port speaks WebSocket: send Connection: Upgrade and Upgrade: websocket"));
        }
        let has_body = single(headers, "Content-Length")
            .map_or(true, |len| len.is_some_and(|len| len != "0"))
            || values(headers, "Transfer-Encoding").next().is_some();
        if has_body {
            return Err((400, "an upgrade has no body"));
        }
        let version = one("Sec-WebSocket-Version", "more than one Sec-WebSocket-Version")?;
        if version != Some(VERSION) {
            return Err((426, "only version 13 of WebSocket is spoken here"));
        }
        let key = one("Sec-WebSocket-Key", "more than one Sec-WebSocket-Key")?;
        let key = key.ok_or((400, "no Sec-WebSocket-Key"))?;
        if BASE64_STANDARD.decode(key).map(|key| key.len()) != Ok(KEY_BYTES) {
            return Err((400, "Sec-WebSocket-Key is not 16 bytes in Base64"));
        }
        if !has_token(headers, "Sec-WebSocket-Protocol", PROTOCOL) {
            return Err((400, "the subprotocol msrp is not offered (RFC 7977, 4.1)"));
        }
        let origin = one("Origin", "more than one Origin, or one that is no text")?;
        Ok((key, origin))
    }
}

/// The values of a header, which may stand there more than once.
fn values<'h>(headers: Headers<'h, '_>, name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The value of a header that may stand there once.
fn single<'b>(headers: Headers<'_, 'b>, name: &'static str) -> Result<Option<&'b str>, ()> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => std::str::from_utf8(one.value).map(|text| Some(text.trim())).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

/// Whether a header, whose values are lists, has this among them.
fn has_token(headers: Headers<'_, '_>, name: &'static str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn accepted(key: &str, origin: Option<&str>) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n",
        accept_of(key)
    );
    if let Some(origin) = origin {
        response.push_str("Access-Control-Allow-Origin: ");
        response.push_str(origin);
        response.push_str("\r\nVary: Origin\r\n");
    }
    response.push_str("\r\n");
    response.into_bytes()
}

fn refused((status, why): Fault, origin: Option<String>) -> Upgrade {
    let phrase = match status {
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    };
    let more = match status {
        405 => "Allow: GET\r\n",
        426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    let connection = if status == 426 { "Upgrade, close" } else { "close" };
    let len = why.len() + 1;
    let response = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\
         Cache-Control: no-store\r\nConnection: {connection}\r\n{more}\r\n{why}\n"
    );
    Upgrade::Refused(Refusal { response: response.into_bytes(), status, why, origin })
}

/// What proves that the server has read the key (RFC 6455, 4.2.2).
fn accept_of(key: &str) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key.as_bytes()).chain_update(ACCEPT_GUID).finalize())
}

/// A client's request, and how its answer is told from another's.
#[derive(Debug)]
pub struct Asked {
    accept: String,
}

/// A server that does not upgrade.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUpgraded {
    /// It answers with another status.
    #[error("it answers {status} instead of upgrading to WebSocket: {reason}")]
    Status {
        /// The status.
        status: u16,
        /// What it says of that.
        reason: String,
    },
    /// It does not speak HTTP/1.1.
    #[error("its answer to the upgrade is not HTTP")]
    NotHttp,
    /// The answer has too many headers, or too long ones.
    #[error("its answer to the upgrade is too long")]
    TooLong,
    /// It upgrades to something else.
    #[error("it upgrades, but {0}")]
    Otherwise(&'static str),
}

impl Asked {
    /// Writes the request for `path` at `host`, as in its URL. `nonce` is to be random.
    #[must_use]
    pub fn new(host: &str, path: &str, nonce: [u8; KEY_BYTES]) -> (Self, Vec<u8>) {
        let key = BASE64_STANDARD.encode(nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {VERSION}\r\n\
             Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        );
        (Self { accept: accept_of(&key) }, request.into_bytes())
    }

    /// Judges what has been received of the answer. Returns how long it is, once it is there; frames follow.
    ///
    /// # Errors
    /// The server does not upgrade.
    pub fn judge(&self, received: &[u8]) -> Result<Option<usize>, NotUpgraded> {
        let head = received.get(..REQUEST_BYTES_MAX).unwrap_or(received);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let consumed = match response.parse(head) {
            Ok(httparse::Status::Complete(consumed)) => consumed,
            Ok(httparse::Status::Partial) if received.len() < REQUEST_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(NotUpgraded::TooLong);
            }
            Err(_) => return Err(NotUpgraded::NotHttp),
        };
        let headers = &*response.headers;
        let status = response.code.unwrap_or_default();
        if status != 101 {
            let reason = self.reason(response.reason, received.get(consumed..).unwrap_or_default());
            return Err(NotUpgraded::Status { status, reason });
        }
        if !has_token(headers, "Connection", "upgrade") || !has_token(headers, "Upgrade", "websocket") {
            return Err(NotUpgraded::Otherwise("to something else than WebSocket"));
        }
        if single(headers, "Sec-WebSocket-Accept") != Ok(Some(&self.accept)) {
            return Err(NotUpgraded::Otherwise("it has not read the key that was sent"));
        }
        if single(headers, "Sec-WebSocket-Protocol") != Ok(Some(PROTOCOL)) {
            return Err(NotUpgraded::Otherwise("not to the subprotocol msrp"));
        }
        if values(headers, "Sec-WebSocket-Extensions").any(|value| !value.trim_ascii().is_empty()) {
            return Err(NotUpgraded::Otherwise("with an extension that was not asked for"));
        }
        Ok(Some(consumed))
    }

    /// What the answer says: its sentence, if it has come and is one, or its phrase.
    fn reason(&self, phrase: Option<&str>, body: &[u8]) -> String {
        let line = memmem::find(body, b"\n").and_then(|end| body.get(..end)).unwrap_or(body).trim_ascii();
        match std::str::from_utf8(line) {
            Ok(text) if !text.is_empty() && text.len() <= 200 && !text.chars().any(char::is_control) => {
                text.to_owned()
            }
            _ => phrase.unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const EXAMPLE: &str = "GET / HTTP/1.1\r\nHost: a.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://www.example.com\r\n\
        Sec-WebSocket-Protocol: msrp\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn text(response: &[u8]) -> &str {
        std::str::from_utf8(response).unwrap()
    }

    // RFC 7977, 4.1 and 8.1.1, and RFC 6455, 1.3, with the header that RFC 7977, 7, asks for.
    #[test]
    fn example_of_the_rfc_is_answered_as_there() {
        let Upgrade::Accepted { response, consumed } = Wanted::default().judge(EXAMPLE.as_bytes()) else {
            panic!("refused");
        };
        assert_eq!(consumed, EXAMPLE.len());
        assert_eq!(
            text(&response),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: msrp\r\n\
             Access-Control-Allow-Origin: http://www.example.com\r\nVary: Origin\r\n\r\n"
        );
    }

    #[test]
    fn each_beginning_of_a_request_asks_for_more() {
        for len in 0..EXAMPLE.len() {
            let judged = Wanted::default().judge(&EXAMPLE.as_bytes()[..len]);
            assert_eq!(judged, Upgrade::Unfinished, "{len}");
        }
    }

    fn status(wanted: &Wanted, request: &str) -> u16 {
        match wanted.judge(request.as_bytes()) {
            Upgrade::Accepted { .. } => 101,
            Upgrade::Refused(refusal) => {
                let first = format!("HTTP/1.1 {} ", refusal.status);
                assert!(text(&refusal.response).starts_with(&first), "{:?}", refusal);
                assert!(text(&refusal.response).ends_with(&format!("\r\n\r\n{}\n", refusal.why)));
                refusal.status
            }
            Upgrade::Unfinished => 0,
        }
    }

    #[test]
    fn what_is_no_upgrade_to_msrp_gets_a_status_that_says_why() {
        let wanted = Wanted::default();
        let with = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            status(&wanted, &EXAMPLE.replace(from, to))
        };
        assert_eq!(with("GET", "POST"), 405);
        assert_eq!(with("GET /", "GET /other"), 404);
        assert_eq!(with("GET /", "GET /?token=1"), 101);
        assert_eq!(with("HTTP/1.1", "HTTP/1.0"), 505);
        assert_eq!(with("Host: a.example.com\r\n", ""), 400);
        assert_eq!(with("Host: a", "Host: b\r\nHost: a"), 400);
        assert_eq!(with("Upgrade: websocket\r\n", ""), 426);
        assert_eq!(with("Upgrade: websocket", "Upgrade: h2c"), 426);
        assert_eq!(with("Connection: Upgrade", "Connection: keep-alive, Upgrade"), 101);
        assert_eq!(with("Connection: Upgrade", "Connection: close"), 426);
        assert_eq!(with("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426);
        assert_eq!(with("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400);
        assert_eq!(with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400);
        assert_eq!(with("Sec-WebSocket-Protocol: msrp\r\n", ""), 400);
        assert_eq!(with("Protocol: msrp", "Protocol: sip, MSRP"), 101);
        assert_eq!(with("Protocol: msrp", "Protocol: sip"), 400);
        assert_eq!(with("Host:", "Content-Length: 3\r\nHost:"), 400);
        assert_eq!(with("Host:", "Transfer-Encoding: chunked\r\nHost:"), 400);
        assert_eq!(status(&wanted, "MSRP a786hjs2 AUTH\r\nTo-Path: msrps://a.example.com;tcp\r\n"), 400);
        assert_eq!(status(&wanted, "\u{16}\u{3}\u{1}"), 400);
        assert_eq!(with("Host:", &format!("X: {}\r\nHost:", "x".repeat(REQUEST_BYTES_MAX))), 431);
        assert_eq!(with("Host:", &format!("{}Host:", "X: y\r\n".repeat(HEADERS_MAX))), 431);
    }

    #[test]
    fn origins_that_are_not_listed_are_refused_by_name() {
        let origins = Origins::Listed(vec!["https://chat.example.com".to_owned()]);
        let wanted = Wanted { origins, path: "/msrp".to_owned() };
        let request = EXAMPLE.replace("GET /", "GET /msrp");
        let Upgrade::Refused(refusal) = wanted.judge(request.as_bytes()) else { panic!("accepted") };
        assert_eq!((refusal.status, refusal.origin.as_deref()), (403, Some("http://www.example.com")));
        assert!(refusal.why.contains("websocket.origins"));
        assert_eq!(
            status(&wanted, &request.replace("http://www.example.com", "HTTPS://Chat.example.com")),
            101
        );
        assert_eq!(status(&wanted, &request.replace("Origin: http://www.example.com\r\n", "")), 101);
        assert_eq!(status(&wanted, EXAMPLE), 404);
    }

    #[test]
    fn both_ends_understand_each_other() {
        let (asked, request) = Asked::new("relay.example.com:8443", "/", [7; 16]);
        let Upgrade::Accepted { response, .. } = Wanted::default().judge(&request) else { panic!("refused") };
        for len in 0..response.len() {
            assert_eq!(asked.judge(&response[..len]), Ok(None));
        }
        assert_eq!(asked.judge(&response), Ok(Some(response.len())));
        let (other, _) = Asked::new("relay.example.com:8443", "/", [8; 16]);
        assert!(matches!(other.judge(&response), Err(NotUpgraded::Otherwise(_))));
        let Upgrade::Refused(refusal) = Wanted::default().judge(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n") else {
            panic!("accepted")
        };
        let reason = "there is nothing at this path: see websocket.path".to_owned();
        assert_eq!(asked.judge(&refusal.response), Err(NotUpgraded::Status { status: 404, reason }));
        assert_eq!(asked.judge(b"MSRP 1234 400 Bad\r\n"), Err(NotUpgraded::NotHttp));
    }
}
