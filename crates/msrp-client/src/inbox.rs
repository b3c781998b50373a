//! Receives files on an endpoint: separates messages, answers every request, reports what arrived.
//!
//! Invariants (RFC 4975, 7.3): every SEND is answered once as its Failure-Report says, with 200 after its end or with
//! an error as soon as that is known; a request for another session is 481; chunks of different messages may alternate;
//! a success REPORT goes out only when the whole file is stored under its name. A message that is not a file (see
//! `talk`) is answered and reported in the same way, but neither stored nor counted. State per peer is bounded: so many
//! open messages, so many refused ones. Must not know where the files come from or who observes.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use futures_lite::future::or;

use super::ClientError;
use super::answer::{self, Subject};
use super::endpoint::{Endpoint, Event, Incoming, Urgent};
use super::incoming_file::{Arrival, IncomingFile, Rejection, Wishes};
use super::talk::Said;
use msrp_proto::head::{FailureReport, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;

/// Messages that may be under way at the same time.
const FILES_OPEN_MAX: usize = 64;
/// Refused messages whose later chunks are still recognised.
const REFUSED_MAX: usize = 256;

/// What is received, and where it goes.
#[derive(Clone, Debug)]
pub struct InboxOptions {
    /// The directory for the files; it must exist.
    pub directory: PathBuf,
    /// Return after so many files, stored or rejected; `None` goes on until the peer closes.
    pub messages: Option<usize>,
    /// The largest file accepted, in bytes.
    pub size_max: u64,
    /// Give up when nothing arrives for so long; `None` waits for ever.
    pub idle_limit: Option<Duration>,
    /// Store also messages that are not files: lines of chat, and notices such as "is typing".
    pub every_message: bool,
}

/// Events for an observer.
#[derive(Debug)]
pub enum InboxEvent<'a> {
    /// The first chunk of a message has begun.
    Began {
        /// What it will be called.
        name: &'a str,
        /// How long it will be, if announced.
        total: Option<u64>,
    },
    /// So many bytes of the message that began last have come so far.
    Progress(u64),
    /// A file is complete, or has been given up.
    Arrived(&'a Arrival),
    /// A message that is no file is complete.
    Said(&'a Said),
}

/// Which message a chunk belongs to: its Message-ID and its sender.
type Key = Vec<u8>;

/// The receiving side of a session.
#[derive(Debug)]
pub struct Inbox {
    own_uri: String,
    options: InboxOptions,
    urgent: Urgent,
    open: HashMap<Key, IncomingFile>,
    refused: VecDeque<Key>,
    frame: Option<OpenFrame>,
    arrivals: Vec<Arrival>,
}

/// The frame that is being received.
#[derive(Debug)]
struct OpenFrame {
    head: Head,
    bytes: Vec<u8>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Bytes of a message.
    Chunk { key: Key, start: u64, end: u64 },
    /// Not wanted; the answer at its end, if any.
    Unwanted(Option<Status>),
}

impl Inbox {
    /// An inbox for the session of this endpoint.
    pub fn new(endpoint: &Endpoint, options: InboxOptions) -> Self {
        Self {
            own_uri: endpoint.own_uri().to_owned(),
            options,
            urgent: endpoint.outgoing.urgent(),
            open: HashMap::new(),
            refused: VecDeque::new(),
            frame: None,
            arrivals: Vec::new(),
        }
    }

    /// Receives until enough messages have come or the peer closes. Messages that are unfinished then are
    /// [`Rejection::Lost`].
    ///
    /// # Errors
    /// Those of the connection, with what had arrived before in `arrivals`.
    pub async fn receive(
        mut self,
        endpoint: &mut Endpoint,
        arrivals: &mut Vec<Arrival>,
        observe: &mut dyn FnMut(InboxEvent<'_>),
    ) -> Result<(), ClientError> {
        let activity = endpoint.activity();
        let idle_limit = self.options.idle_limit;
        let reading = self.read_all(&mut endpoint.incoming, observe);
        let serving = async { endpoint.outgoing.serve().await.map(|never: Infallible| match never {}) };
        let stalled = async {
            match idle_limit {
                Some(limit) => activity.stops(limit).await,
                None => std::future::pending().await,
            }
            Err(ClientError::stalled(idle_limit.unwrap_or_default()))
        };
        let result = or(reading, or(serving, stalled)).await;
        let lost: Vec<Key> = self.open.keys().cloned().collect();
        for key in lost {
            self.give_up(&key, Rejection::Lost, observe);
        }
        arrivals.append(&mut self.arrivals);
        result?;
        endpoint.outgoing.send_urgent().await
    }

    async fn read_all(
        &mut self,
        incoming: &mut Incoming,
        observe: &mut dyn FnMut(InboxEvent<'_>),
    ) -> Result<(), ClientError> {
        while self.options.messages.is_none_or(|messages| self.arrivals.len() < messages) {
            match incoming.next().await? {
                Some(Event::Head { head, bytes }) => self.head(head, bytes, observe),
                Some(Event::Body(bytes)) => self.body(bytes, observe).await,
                Some(Event::End(flag)) => self.end(flag, observe).await,
                None => return Ok(()),
            }
            self.urgent.room().await;
        }
        Ok(())
    }

    fn head(&mut self, head: Head, bytes: &[u8], observe: &mut dyn FnMut(InboxEvent<'_>)) {
        let content = match self.judge(&head, bytes) {
            Ok(()) => self.chunk(&head, bytes, observe),
            Err(status) => Content::Unwanted(status),
        };
        self.frame = Some(OpenFrame { head, bytes: bytes.to_vec(), content });
    }

    /// Whether the frame is a chunk of content for this session; if not, the answer that is due.
    fn judge(&self, head: &Head, bytes: &[u8]) -> Result<(), Option<Status>> {
        match head.kind() {
            Kind::Response(_) | Kind::Request(Method::Report) => Err(None),
            Kind::Request(_) if head.defect().is_some() => Err(Some(Status::BAD_REQUEST)),
            Kind::Request(_) if !self.is_ours(head, bytes) => Err(Some(Status::NO_SESSION)),
            Kind::Request(Method::Send) if head.has_body() => Ok(()),
            // A first SEND or a keep-alive: it only asks for an answer.
            Kind::Request(Method::Send) => Err(Some(Status::OK)),
            Kind::Request(_) => Err(Some(Status::NOT_IMPLEMENTED)),
        }
    }

    fn is_ours(&self, head: &Head, bytes: &[u8]) -> bool {
        let to_path = head.to_path(bytes);
        let parsed = to_path.last().map(MsrpUri::parse);
        match (parsed, MsrpUri::parse(self.own_uri.as_bytes())) {
            (Some(Ok(last)), Ok(own)) => to_path.len() == 1 && last.same_as(&own),
            _ => false,
        }
    }

    /// Finds or opens the message that the chunk belongs to.
    fn chunk(&mut self, head: &Head, bytes: &[u8], observe: &mut dyn FnMut(InboxEvent<'_>)) -> Content {
        let mut key = head.message_id(bytes).unwrap_or_default().to_vec();
        key.push(b' ');
        key.extend_from_slice(head.from_path(bytes).last().unwrap_or_default());
        if self.refused.contains(&key) {
            return self.refuse_now(head, bytes, Status::STOP, None);
        }
        if !self.open.contains_key(&key) {
            if self.open.len() == FILES_OPEN_MAX {
                return self.refuse_now(head, bytes, Status::STOP, Some("Too many messages at once"));
            }
            let InboxOptions { directory, size_max, every_message, .. } = &self.options;
            let wishes = Wishes { directory, size_max: *size_max, every_message: *every_message };
            match IncomingFile::begin(wishes, head, bytes) {
                Ok(file) => {
                    began(&file, observe);
                    self.open.insert(key.clone(), file);
                }
                Err(rejection) => {
                    self.remember_refused(key);
                    self.tell_why(head, bytes, &rejection);
                    let content = self.refuse_now(head, bytes, Status::STOP, Some(rejection.words()));
                    self.arrived(unopened(rejection), observe);
                    return content;
                }
            }
        }
        let start = self.open.get(&key).map_or(0, |file| file.offset_of(head.byte_range()));
        Content::Chunk { key, start, end: start }
    }

    async fn body(&mut self, bytes: &[u8], observe: &mut dyn FnMut(InboxEvent<'_>)) {
        let Some(OpenFrame { content: Content::Chunk { key, end, .. }, .. }) = &mut self.frame else {
            return;
        };
        let Some(file) = self.open.get_mut(key) else {
            return;
        };
        let was_talk = file.is_talk();
        match file.write(*end, bytes).await {
            Ok(new_end) => {
                *end = new_end;
                if was_talk {
                    began(file, observe);
                }
                if !file.is_talk() {
                    observe(InboxEvent::Progress(new_end));
                }
            }
            Err(rejection) => {
                let key = key.clone();
                self.refuse_running(&key, rejection, observe);
            }
        }
    }

    async fn end(&mut self, flag: Flag, observe: &mut dyn FnMut(InboxEvent<'_>)) {
        let Some(frame) = self.frame.take() else {
            return;
        };
        let (key, start, end) = match frame.content {
            Content::Chunk { key, start, end } => (key, start, end),
            Content::Unwanted(status) => {
                self.answer(&frame.head, &frame.bytes, status, None);
                return;
            }
        };
        let Some(file) = self.open.get_mut(&key) else {
            return;
        };
        let ended = file.chunk_ended(start, end, flag);
        match ended {
            Ok(complete) => {
                self.answer(&frame.head, &frame.bytes, Some(Status::OK), None);
                if complete {
                    self.complete(&key, observe).await;
                }
            }
            Err(Rejection::Aborted) => {
                self.answer(&frame.head, &frame.bytes, Some(Status::OK), None);
                self.give_up(&key, Rejection::Aborted, observe);
            }
            Err(rejection) => {
                self.tell_why(&frame.head, &frame.bytes, &rejection);
                self.answer(&frame.head, &frame.bytes, Some(Status::STOP), Some(rejection.words()));
                self.remember_refused(key.clone());
                self.give_up(&key, rejection, observe);
            }
        }
    }

    /// All of the message is here: stores it, reports, counts it.
    async fn complete(&mut self, key: &Key, observe: &mut dyn FnMut(InboxEvent<'_>)) {
        let Some(file) = self.open.remove(key) else {
            return;
        };
        let (back, message_id) = (file.back.clone(), file.message_id.clone());
        let (wants_success, wants_failure) = (file.success_report, file.failure_report != FailureReport::No);
        let bytes = file.bytes();
        let subject = Subject { back: &back, own_uri: &self.own_uri, message_id: &message_id, bytes };
        if file.is_talk() {
            if wants_success {
                self.urgent.push(&answer::report(&subject, Status::OK, None));
            }
            if let Some(said) = file.said() {
                observe(InboxEvent::Said(&said));
            }
            return;
        }
        let arrival = file.finish().await;
        match &arrival.stored {
            Ok(_) if wants_success => self.urgent.push(&answer::report(&subject, Status::OK, None)),
            Err(rejection) if wants_failure => {
                self.urgent.push(&answer::report(&subject, Status::STOP, Some(rejection.words())));
            }
            _ => {}
        }
        self.arrived(arrival, observe);
    }

    /// Ends the message in the middle of a chunk, telling the sender at once.
    fn refuse_running(&mut self, key: &Key, rejection: Rejection, observe: &mut dyn FnMut(InboxEvent<'_>)) {
        if let Some(mut frame) = self.frame.take() {
            self.tell_why(&frame.head, &frame.bytes, &rejection);
            frame.content = self.refuse_now(&frame.head, &frame.bytes, Status::STOP, Some(rejection.words()));
            self.frame = Some(frame);
        }
        self.remember_refused(key.clone());
        self.give_up(key, rejection, observe);
    }

    /// Answers before the end of the frame; then no answer is due at the end.
    fn refuse_now(&self, head: &Head, bytes: &[u8], status: Status, comment: Option<&str>) -> Content {
        self.answer(head, bytes, Some(status), comment);
        Content::Unwanted(None)
    }

    fn answer(&self, head: &Head, bytes: &[u8], status: Option<Status>, comment: Option<&str>) {
        if let Some(frame) = status.and_then(|status| answer::response(head, bytes, status, comment)) {
            self.urgent.push(&frame);
        }
    }

    fn give_up(&mut self, key: &Key, rejection: Rejection, observe: &mut dyn FnMut(InboxEvent<'_>)) {
        if let Some(file) = self.open.remove(key).filter(|file| !file.is_talk()) {
            self.arrived(file.reject(rejection), observe);
        }
    }

    /// Through relays a response loses its words, because each hop writes its own: a REPORT brings them to the sender.
    /// The REPORT goes first, because a sender shows the first failure that it hears of.
    fn tell_why(&self, head: &Head, bytes: &[u8], rejection: &Rejection) {
        let back = head.from_path(bytes);
        if back.len() < 2 || head.failure_report() == FailureReport::No {
            return;
        }
        let subject = Subject {
            back: back.as_bytes(),
            own_uri: &self.own_uri,
            message_id: head.message_id(bytes).unwrap_or_default(),
            bytes: head.byte_range().and_then(|range| range.total).unwrap_or_default(),
        };
        self.urgent.push(&answer::report(&subject, Status::STOP, Some(rejection.words())));
    }

    fn arrived(&mut self, arrival: Arrival, observe: &mut dyn FnMut(InboxEvent<'_>)) {
        observe(InboxEvent::Arrived(&arrival));
        self.arrivals.push(arrival);
    }

    fn remember_refused(&mut self, key: Key) {
        if self.refused.len() == REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back(key);
    }
}

/// Tells of a message that is a file.
fn began(file: &IncomingFile, observe: &mut dyn FnMut(InboxEvent<'_>)) {
    if !file.is_talk() {
        observe(InboxEvent::Began { name: &file.name(), total: file.total() });
    }
}

/// A message refused by its first head.
fn unopened(rejection: Rejection) -> Arrival {
    Arrival {
        offered_name: None,
        bytes: 0,
        sha256: None,
        hash_announced: false,
        stored: Err(rejection),
        elapsed: Duration::ZERO,
    }
}
