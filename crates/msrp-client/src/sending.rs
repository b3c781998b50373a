//! One message from its source to the last confirmation: streams it, reads the answers, knows when to stop.
//!
//! Invariants: success means that every byte was sent and every answer and report asked for has come (RFC 4975, 5.3 and
//! 7.1.4); nothing waits for ever: a connection on which nothing moves in either direction for
//! [`SendOptions::idle_limit`] is given up; a refusal or a failure REPORT is returned rather than the loss of the
//! connection that may follow it. Requests from the peer are answered meanwhile: a SEND without a body (a first SEND or
//! a keep-alive) with 200, content, which a sender does not want, with 413.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future::{or, poll_once, yield_now};

use super::answer;
use super::endpoint::{Endpoint, Event, Incoming, Outgoing, Urgent};
use super::ledger::Ledger;
use super::message::{MessageSpec, MessageStream};
use super::source::Source;
use super::transport::within;
use super::{ClientError, Stage};
use msrp_proto::head::{Head, Kind, Method};

/// How long to wait for an explanation (a REPORT, a response) once the connection takes no more bytes, and how long the
/// `#` after a failure may take.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// How a message is sent, beyond what its [`MessageSpec`] says.
#[derive(Clone, Copy, Debug)]
pub struct SendOptions {
    /// Give up when nothing has moved in either direction for so long.
    pub idle_limit: Duration,
}

/// What became of a message that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its length.
    pub bytes: u64,
    /// How many chunks it took.
    pub chunks: u64,
    /// How many of them were answered.
    pub answers: u64,
    /// Whether the receiver has reported all of it as arrived.
    pub reported: bool,
    /// From the first byte to the last confirmation.
    pub elapsed: Duration,
}

/// Sends one message and waits for all that its spec asks for. Calls `progress` with the bytes sent so far.
///
/// # Errors
/// Whatever ended the transfer. The message may have been cut in the middle: close the endpoint then.
pub async fn send_message(
    endpoint: &mut Endpoint,
    spec: &MessageSpec,
    source: &mut Source,
    options: SendOptions,
    progress: &dyn Fn(u64),
) -> Result<Delivery, ClientError> {
    let began = Instant::now();
    let ledger = Rc::new(Ledger::new(spec.failure_report));
    let (urgent, activity) = (endpoint.outgoing.urgent(), endpoint.activity());
    let mut writing = pin!(write_all(&mut endpoint.outgoing, spec, source, &ledger, progress));
    let mut reading = pin!(read_all(&mut endpoint.incoming, &ledger, spec.message_id.as_bytes(), &urgent));

    let written = async { Turn::Written(writing.as_mut().await) };
    let ended = async { Turn::Ended(reading.as_mut().await) };
    let failed = async {
        ledger.failed().await;
        Turn::Failed
    };
    let stalled = async {
        activity.stops(options.idle_limit).await;
        Turn::Stalled
    };
    let turn = or(written, or(ended, or(failed, stalled))).await;
    let result = match turn {
        Turn::Written(Err(error @ ClientError::Io(_))) => {
            // "The other side speaks TLS" says more than "it has closed".
            let last = within(LAST_WORDS_LIMIT, Stage::Transferring, reading).await;
            Err(last.filter(speaks_tls).unwrap_or(error))
        }
        Turn::Written(result) => result,
        Turn::Ended(error) if speaks_tls(&error) => Err(error),
        // The last confirmation may have come together with the end.
        Turn::Ended(error) => poll_once(writing).await.unwrap_or(Err(error)),
        Turn::Failed => {
            let written = within(LAST_WORDS_LIMIT, Stage::Transferring, writing).await;
            written.unwrap_or_else(|| Err(lost("after a failure")))
        }
        Turn::Stalled => Err(ClientError::stalled(options.idle_limit)),
    };
    let (bytes, chunks) = result.map_err(|error| ledger.take_failure().unwrap_or(error))?;
    let (answers, reported) = (ledger.answers(), ledger.arrived(bytes));
    Ok(Delivery { bytes, chunks, answers, reported, elapsed: began.elapsed() })
}

/// Which of the concurrent things ended first.
enum Turn {
    Written(Result<(u64, u64), ClientError>),
    Ended(ClientError),
    Failed,
    Stalled,
}

const fn speaks_tls(error: &ClientError) -> bool {
    matches!(error, ClientError::SpeaksTls)
}

fn lost(when: &str) -> ClientError {
    ClientError::ConnectionLost(when.to_owned())
}

/// Streams the source and waits for the confirmations; bytes and chunks.
async fn write_all(
    outgoing: &mut Outgoing,
    spec: &MessageSpec,
    source: &mut Source,
    ledger: &Rc<Ledger>,
    progress: &dyn Fn(u64),
) -> Result<(u64, u64), ClientError> {
    let mut stream = MessageStream::new(outgoing, spec, Rc::clone(ledger));
    loop {
        let piece = match source.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                stream.abort().await?;
                return Err(error);
            }
        };
        stream.write(&piece).await?;
        source.recycle(piece);
        progress(stream.sent());
        // Lets the receiving half have its turn even while the kernel takes everything at once.
        yield_now().await;
    }
    let (bytes, chunks) = stream.finish().await?;
    let settled = async {
        ledger.settled(bytes, spec.success_report).await;
        ledger.take_failure().map_or(Ok((bytes, chunks)), Err)
    };
    let served = async { outgoing.serve().await.map(|never: Infallible| match never {}) };
    or(settled, served).await
}

/// Reads until the connection ends, which is always returned as an error.
async fn read_all(
    incoming: &mut Incoming,
    ledger: &Ledger,
    message_id: &[u8],
    urgent: &Urgent,
) -> ClientError {
    let mut answer_at_end = None;
    loop {
        match incoming.next().await {
            Ok(Some(Event::Head { head, bytes })) => {
                answer_at_end = note(&head, bytes, ledger, message_id);
            }
            Ok(Some(Event::Body(_))) => {}
            Ok(Some(Event::End(_))) => {
                if let Some(answer) = answer_at_end.take() {
                    urgent.push(&answer);
                    urgent.room().await;
                }
            }
            Ok(None) => return lost("before everything was confirmed"),
            Err(error) => return error,
        }
    }
}

/// Notes responses and REPORTs. For other requests, returns the answer that is due at their end.
fn note(head: &Head, bytes: &[u8], ledger: &Ledger, message_id: &[u8]) -> Option<Vec<u8>> {
    match head.kind() {
        Kind::Response(status) => {
            ledger.answered(head.tid(bytes), status, &answer::comment(head, bytes));
            None
        }
        Kind::Request(Method::Report) => {
            let status = head.reported_status(bytes)?;
            if head.message_id(bytes) == Some(message_id) {
                ledger.reported(status, &answer::report_comment(head, bytes), head.byte_range());
            }
            None
        }
        Kind::Request(_) => answer::of_a_sender(head, bytes),
    }
}
