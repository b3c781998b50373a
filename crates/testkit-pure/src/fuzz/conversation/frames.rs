//! The templates: valid paths and requests, with holes for the script's choices.

use super::far_end::{FarEnd, Wish};
use super::world::{DOMAIN, HOST, Link, PORT, password};
use msrp_proto::digest::{Ha1, NonceUse};
use msrp_proto::head::ByteRange;
use msrp_proto::parser::Flag;

/// The open chunk and message of a connection.
#[derive(Default)]
pub(super) struct Part {
    /// A chunk whose end-line has not been sent.
    pub(super) open: Option<Open>,
    /// A message of which more will come, and its To-Path.
    pub(super) message: Option<(usize, String)>,
}

pub(super) struct Open {
    pub(super) tid: String,
    pub(super) has_body: bool,
    pub(super) traits: Traits,
}

impl Part {
    /// The intended flag of the open chunk.
    pub(super) fn flag(&self) -> Flag {
        self.open.as_ref().map_or(Flag::Last, |open| open.traits.flag())
    }
}

/// How many bytes a size stands for: one step each at first, then wider ones, past every limit.
pub(super) fn bytes(size: u8) -> usize {
    let size = usize::from(size);
    match size {
        0..64 => size,
        64..128 => (size - 62) * 32,
        128..192 => (size - 112) * 128 + 1,
        _ => (size - 186) * 400 + 3,
    }
}

// -- paths -------------------------------------------------------------------------------------

/// An endpoint that can be dialled.
pub(super) fn far(choice: u8) -> String {
    format!("msrps://far{}.example:7777/far;tcp", choice % 4)
}

/// A To-Path for one of the connections, mostly to another one.
pub(super) fn path(links: &[Link], from: usize, choice: u8) -> String {
    let session = links[from].end.session.as_deref();
    match (choice, session) {
        (0..160, _) => {
            let live: Vec<&Link> = links.iter().filter(|link| !link.gone).collect();
            let to = live[usize::from(choice) % live.len()];
            let parts = [session, to.end.session.as_deref(), Some(to.end.uri.as_str())];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        (160..208, Some(session)) => format!("{session} {}", far(choice)),
        _ => {
            let mut choice = usize::from(choice);
            let mut parts = Vec::new();
            for _ in 0..1 + choice % 3 {
                // An end without a session has no session's URI.
                parts.push(uri(links, from, choice).unwrap_or_else(|| format!("msrps://{HOST}:{PORT};tcp")));
                choice = choice / 3 + 5;
            }
            parts.join(" ")
        }
    }
}

/// Any URI, valid or not.
fn uri(links: &[Link], from: usize, choice: usize) -> Option<String> {
    let of = |link: usize| &links[link % links.len()].end;
    Some(match choice % 12 {
        0 => format!("msrps://{DOMAIN}:{PORT};tcp"),
        1 => format!("msrps://{HOST}:{PORT};tcp"),
        2 => format!("msrps://{HOST}:{PORT}/absent;tcp"),
        // A session id of the second core in its eighth life, and one of a core that does not exist.
        3 => format!("msrps://{HOST}:{PORT}/AAEABwAAAAAAAAAAAAAAAAAAAAAA;tcp"),
        4 => format!("msrps://{HOST}:{PORT}/AAkAAAAAAAAAAAAAAAAAAAAAAAAA;tcp"),
        5 => "msrp://plain.example:7777/far;tcp".to_owned(),
        6 => "msrps://far.invalid:7777/far;ws".to_owned(),
        7 => "msrps://far.example/far;tcp".to_owned(),
        8 => of(choice / 12).session.clone()?,
        9 => of(choice / 12).uri.clone(),
        // Ours by its id alone.
        10 => links[from].end.session.as_deref()?.replace(HOST, "other.example"),
        _ => links[from].end.session.clone()?,
    })
}

// -- SEND --------------------------------------------------------------------------------------

/// The properties of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Traits(pub(super) u8);

impl Traits {
    pub(super) fn wish(self) -> Wish {
        match self.0 & 3 {
            0 | 1 => Wish::Answer,
            2 => Wish::Errors,
            _ => Wish::Nothing,
        }
    }

    fn failure_report(self) -> &'static str {
        match self.0 & 3 {
            0 => "",
            1 => "Failure-Report: yes\r\n",
            2 => "Failure-Report: partial\r\n",
            _ => "Failure-Report: no\r\n",
        }
    }

    fn success_report(self) -> &'static str {
        if self.0 & 4 != 0 { "Success-Report: yes\r\n" } else { "" }
    }

    /// The head's Byte-Range for a chunk that begins with `len` bytes, with a lie about its end, or about the message's
    /// end, if chosen.
    pub(super) fn byte_range(self, start: u64, len: u64) -> Option<ByteRange> {
        let end = start - 1 + len;
        let total = (self.flag() == Flag::Last).then_some(end);
        match self.0 >> 3 & 3 {
            0 => Some(ByteRange { start, end: Some(end), total }),
            1 => Some(ByteRange { start, end: None, total }),
            2 => Some(ByteRange { start, end: Some(end / 2), total: None }),
            _ => None,
        }
    }

    pub(super) fn flag(self) -> Flag {
        match self.0 >> 5 & 3 {
            0 | 1 => Flag::Last,
            2 => Flag::More,
            _ => Flag::Aborted,
        }
    }

    /// Whether a chunk without bytes still has a body.
    pub(super) fn has_body(self) -> bool {
        self.0 & 4 != 0
    }

    /// Whether it begins a message although another has not ended.
    pub(super) fn is_new(self) -> bool {
        self.0 & 128 != 0
    }
}

/// A SEND with this transaction id and Message-ID, up to the body.
pub(super) fn send_head(
    [tid, id]: [&str; 2],
    [to, from]: [&str; 2],
    range: Option<ByteRange>,
    traits: Traits,
    has_bytes: bool,
) -> Vec<u8> {
    let range = range.map(|range| format!("Byte-Range: {range}\r\n")).unwrap_or_default();
    let (failure, success) = (traits.failure_report(), traits.success_report());
    let content = if has_bytes || traits.has_body() { "Content-Type: text/plain\r\n\r\n" } else { "" };
    format!(
        "MSRP {tid} SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: {id}\r\n\
         {range}{failure}{success}{content}"
    )
    .into_bytes()
}

/// A request other than SEND and AUTH to the relay, and the answer it asks for.
pub(super) fn other(tid: &str, to: &str, from: &str, kind: u8) -> (Vec<u8>, Wish) {
    let (method, headers, wish) = match kind % 4 {
        0 => ("NICKNAME", "Use-Nickname: \"bird\"\r\n", Wish::Answer),
        1 => ("REPORT", "Message-ID: mess0000\r\nByte-Range: 1-9/9\r\nStatus: 000 200 OK\r\n", Wish::Nothing),
        2 => ("UNHEARD", "Message-ID: other\r\n", Wish::Answer),
        _ => ("AUTH", "Expires: 300\r\n", Wish::Answer),
    };
    let len = bytes(kind / 4 * 4);
    let body = if len == 0 { String::new() } else { format!("\r\n{}\r\n", "x".repeat(len)) };
    let text = format!(
        "MSRP {tid} {method}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{headers}{body}-------{tid}$\r\n"
    );
    (text.into_bytes(), wish)
}

// -- AUTH --------------------------------------------------------------------------------------

/// The choices for an AUTH.
#[derive(Default)]
pub(super) struct Credentials {
    /// 0: none. 1 to 4: valid.
    kind: u8,
    user: u8,
    expires: u8,
    to: u8,
    /// Uses the nonce's count a second time.
    again: bool,
    last_challenge: bool,
    through_another: bool,
}

impl Credentials {
    pub(super) fn right(user: u8, expires: u8) -> Self {
        Self { kind: 1, user, expires, ..Self::default() }
    }

    pub(super) fn chosen(how: u8, who: u8) -> Self {
        Self {
            kind: how % 8,
            to: how >> 3 & 3,
            expires: how >> 5,
            user: who,
            again: who & 16 != 0,
            last_challenge: who & 32 != 0,
            through_another: who & 192 == 192,
        }
    }

    /// Name and password; 5: a wrong password, 6: an unknown user.
    fn user(&self) -> (&'static str, String) {
        let user = ["alice", "bob", "carol"][usize::from(self.user % 3)];
        match self.kind {
            5 => (user, "wrong".to_owned()),
            6 => ("mallory", password("mallory")),
            _ => (user, password(user)),
        }
    }
}

/// An AUTH of an end, which answers its last challenge, if it has one.
pub(super) fn auth(tid: &str, end: &mut FarEnd, credentials: &Credentials) -> Vec<u8> {
    let to = match credentials.to {
        2 => end.session.clone().unwrap_or_else(|| format!("msrps://{HOST}:{PORT};tcp")),
        1 => format!("msrps://{HOST}:{PORT};tcp"),
        3 => "msrps://other.example:2856;tcp".to_owned(),
        _ => format!("msrps://{DOMAIN}:{PORT};tcp"),
    };
    let (user, password) = credentials.user();
    let ticket =
        if credentials.last_challenge { end.challenges.last_mut() } else { end.challenges.first_mut() };
    let authorization = match ticket.filter(|_| credentials.kind > 0) {
        None => String::new(),
        Some(_) if credentials.kind == 7 => "Authorization: Digest username=\"alice\", realm\r\n".to_owned(),
        Some(ticket) => {
            ticket.count += u32::from(!credentials.again);
            let challenge = &ticket.challenge;
            let ha1 = Ha1::new(challenge.algorithm, user, &challenge.realm, &password);
            let answer = challenge.answer(
                user,
                &ha1,
                to.as_bytes(),
                NonceUse { nc: ticket.count, cnonce: "5cdf0a9e71b2" },
            );
            format!("Authorization: {answer}\r\n")
        }
    };
    let expires = ["", "", "60", "3600", "600", "5", "99999", "0"][usize::from(credentials.expires % 8)];
    let expires = if expires.is_empty() { String::new() } else { format!("Expires: {expires}\r\n") };
    let before = if credentials.through_another { "msrps://another.example:2855/x;tcp " } else { "" };
    let from = &end.uri;
    format!(
        "MSRP {tid} AUTH\r\nTo-Path: {to}\r\nFrom-Path: {before}{from}\r\n{authorization}{expires}-------{tid}$\r\n"
    )
    .into_bytes()
}
