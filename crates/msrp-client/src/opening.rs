//! Keeps a session open while there is nothing to send yet: SENDs without a body (RFC 4975, 5.4).
//!
//! The first one binds the session at the other side, at once. The others keep it open, and keep a waiting receiver
//! from giving up. Invariants: at most [`UNANSWERED_MAX`] of them await an answer; requests from the peer are answered
//! meanwhile; an answer that says that there is no such session ends the wait, and one that only dislikes the empty
//! SEND does not.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use futures_lite::future::or;

use super::answer;
use super::endpoint::{Endpoint, Event, Incoming, Signal, Urgent};
use super::ledger::words;
use super::{ClientError, random_token};
use msrp_proto::head::{ByteRange, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::FrameWriter;

/// Keeps receivers from giving up that do so after some seconds of silence.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A peer that does not answer gets no more of them.
const UNANSWERED_MAX: usize = 4;
/// SENDs that are remembered: a relay has answered them, and may report later that the next hop did not take them.
const REMEMBERED_MAX: usize = 16;

/// How a session is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// To-Path: our relays, then the peer's path.
    pub to_path: &'a str,
    /// Go on only when the first SEND has been answered.
    pub await_answer: bool,
    /// Give up when nothing has moved in either direction for so long.
    pub idle_limit: Duration,
}

/// Opens the session and keeps it open until `work` is done.
///
/// # Errors
/// [`ClientError::SessionRefused`], and those of the connection.
pub async fn open_session<T>(
    endpoint: &mut Endpoint,
    opening: Opening<'_>,
    work: impl Future<Output = T>,
) -> Result<T, ClientError> {
    let (urgent, activity) = (endpoint.outgoing.urgent(), endpoint.activity());
    let from_path = endpoint.own_uri().to_owned();
    let pings = Pings {
        opening,
        from_path,
        sent: RefCell::default(),
        answered: Cell::new(false),
        changed: Signal::default(),
    };
    urgent.push(&pings.next());
    endpoint.outgoing.send_urgent().await?;
    let reading = async { Err(read(&mut endpoint.incoming, &pings, &urgent).await) };
    let serving = async { endpoint.outgoing.serve().await.map(|never: Infallible| match never {}) };
    let working = async {
        let done = work.await;
        if opening.await_answer {
            pings.changed.until(|| pings.answered.get()).await;
        }
        Ok(done)
    };
    let pinging = async {
        loop {
            glommio::timer::sleep(KEEP_ALIVE).await;
            if pings.unanswered() < UNANSWERED_MAX {
                urgent.push(&pings.next());
            }
        }
    };
    let stalled = async {
        activity.stops(opening.idle_limit).await;
        Err(ClientError::stalled(opening.idle_limit))
    };
    let done = or(reading, or(serving, or(working, or(pinging, stalled)))).await?;
    // The work may have ended in the middle of an urgent frame.
    endpoint.outgoing.send_urgent().await?;
    Ok(done)
}

/// The SENDs without a body of one session.
struct Pings<'a> {
    opening: Opening<'a>,
    from_path: String,
    /// The latest of them, oldest first.
    sent: RefCell<VecDeque<Ping>>,
    answered: Cell<bool>,
    changed: Signal,
}

/// A SEND without a body.
struct Ping {
    tid: String,
    message_id: String,
    answered: bool,
}

impl Pings<'_> {
    fn next(&self) -> Vec<u8> {
        let ping = Ping { tid: random_token(12), message_id: random_token(12), answered: false };
        let mut frame = Vec::with_capacity(512);
        FrameWriter::request(&mut frame, ping.tid.as_bytes(), "SEND")
            .header("To-Path", self.opening.to_path.as_bytes())
            .header("From-Path", self.from_path.as_bytes())
            .header("Message-ID", ping.message_id.as_bytes())
            .byte_range(ByteRange { start: 1, end: Some(0), total: Some(0) })
            .end(Flag::Last);
        let mut sent = self.sent.borrow_mut();
        if sent.len() == REMEMBERED_MAX {
            sent.pop_front();
        }
        sent.push_back(ping);
        frame
    }

    fn unanswered(&self) -> usize {
        self.sent.borrow().iter().filter(|ping| !ping.answered).count()
    }

    /// A response came in, or a REPORT, for this one.
    fn settle(
        &self,
        status: Status,
        comment: &str,
        is_it: impl Fn(&Ping) -> bool,
    ) -> Result<(), ClientError> {
        let mut sent = self.sent.borrow_mut();
        let Some(ping) = sent.iter_mut().find(|ping| is_it(ping)) else { return Ok(()) };
        ping.answered = true;
        if !status.is_success() && means_the_session(status) {
            return Err(ClientError::SessionRefused { status, comment: words(status, comment) });
        }
        self.answered.set(true);
        self.changed.wake();
        Ok(())
    }
}

/// Whether an answer is about the session, and not about a SEND without a body.
fn means_the_session(status: Status) -> bool {
    matches!(status.code(), 403 | 408 | 481 | 506)
}

/// Reads until something ends the session, which is always returned as an error.
async fn read(incoming: &mut Incoming, pings: &Pings<'_>, urgent: &Urgent) -> ClientError {
    loop {
        match incoming.next().await {
            Ok(Some(Event::Head { head, bytes })) => {
                if let Err(error) = note(&head, bytes, pings, urgent) {
                    return error;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return ClientError::ConnectionLost("before the file was sent".to_owned()),
            Err(error) => return error,
        }
        urgent.room().await;
    }
}

fn note(head: &Head, bytes: &[u8], pings: &Pings<'_>, urgent: &Urgent) -> Result<(), ClientError> {
    match head.kind() {
        Kind::Response(status) => {
            let tid = head.tid(bytes);
            pings.settle(status, &answer::comment(head, bytes), |ping| ping.tid.as_bytes() == tid)
        }
        Kind::Request(Method::Report) => {
            let (Some(status), Some(id)) = (head.reported_status(bytes), head.message_id(bytes)) else {
                return Ok(());
            };
            pings
                .settle(status, &answer::report_comment(head, bytes), |ping| ping.message_id.as_bytes() == id)
        }
        Kind::Request(_) => {
            // At once, because the work may end before the frame does.
            if let Some(answer) = answer::of_a_sender(head, bytes) {
                urgent.push(&answer);
            }
            Ok(())
        }
    }
}
