//! What the clients of a dead relay must have heard.
//!
//! A killed relay sends nothing. Its connections end, which covers everything unanswered for its own clients (RFC 4975,
//! 7.1.2 asks for an answer on the same connection). The relays that sent to it, or received from it, notify their
//! clients: by the chunk's response, by a REPORT, by an end of the chunk with `#`. Messages that it answered 200 and
//! did not forward are lost silently: an answer is hop by hop.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use msrp_proto::parser::Flag;

use super::crowd::Shared;
use super::pair::{Begun, Pair, Side};
use crate::driver::cast::Outcome;
use crate::driver::content::message_id;
use crate::driver::ledger::{Chunk, Received, Sent, Wish};
use crate::driver::party::{Outgoing, PATIENCE};
use crate::driver::stage::add;

/// Verdicts, by kind.
#[derive(Default)]
pub(crate) struct Notices {
    /// SENDs under way that had been answered 200, without any later notice.
    pub(crate) answered: AtomicU64,
    /// Answered with a failure.
    pub(crate) refused: AtomicU64,
    /// Failures reported by REPORT.
    pub(crate) reported: AtomicU64,
    /// Whole SENDs, or begun ones, whose verdict is the end of their connection.
    pub(crate) ended: AtomicU64,
    /// Chunks that receivers saw end with `#`.
    pub(crate) cut: AtomicU64,
    /// Connections to the dead relay that have ended.
    pub(crate) connections: AtomicU64,
    /// Clients that wrote to the dead relay afterwards and got a failure.
    pub(crate) told_later: AtomicU64,
    /// REPORTs on what had arrived, but for which the dead relay's answer was still to come.
    pub(crate) arrived_and_reported: AtomicU64,
    /// REPORTs of failure in all of that.
    pub(crate) reports: AtomicU64,
}

/// Waits until both ends of a pair have all notices that are due, and notes what must be sent again.
pub(crate) fn settle(pair: &mut Pair, shared: &Shared) -> Outcome {
    let dead = shared.dead();
    for side in Side::BOTH {
        if pair.of(side).is_cut_off(dead) {
            wait(pair, "the connection to the dead relay to end", |pair| {
                let ledger = pair.of(side).party.shared.ledger();
                Ok(ledger.end.is_some() && (ledger.broken_off || ledger.writing == 0))
            })?;
            add(&shared.notices.connections, 1);
        }
    }
    for begun in pair.under_way.clone() {
        wait_for_verdicts(pair, shared, &begun)?;
    }
    for side in Side::BOTH {
        if !pair.of(side).is_cut_off(dead) {
            absent_session_is_reported(pair, shared, side)?;
        }
    }
    // The notices of the earlier messages have come before that of the last.
    for begun in pair.under_way.clone() {
        judge(pair, shared, &begun)?;
        pair.owed.push((begun.from, begun.total));
    }
    pair.under_way.clear();
    for begun in &pair.arrived {
        let ledger = pair.of(begun.from).party.shared.ledger();
        let reports = ledger.sent.get(&begun.id).map_or(0, |sent| sent.reports.len() as u64);
        add(&shared.notices.reports, reports);
        add(&shared.notices.arrived_and_reported, reports);
    }
    if pair.owed.is_empty() {
        pair.owed.extend(Side::BOTH.map(|side| (side, 200)));
    }
    add(&shared.owed, pair.owed.len() as u64);
    Ok(())
}

/// Waits until a living receiver has seen the end of a message that was under way, and a living sender all answers.
fn wait_for_verdicts(pair: &Pair, shared: &Shared, begun: &Begun) -> Outcome {
    let (from, to) = (pair.of(begun.from), pair.of(begun.from.other()));
    wait(pair, "the end of a chunk from a dead relay", |_| {
        let ledger = to.party.shared.ledger();
        let ended = ledger.received.get(&begun.id).is_none_or(|received| received.ended().is_some());
        Ok(ended || to.is_cut_off(shared.dead()))
    })?;
    wait(pair, "verdicts on all SENDs", |_| {
        let ledger = from.party.shared.ledger();
        Ok(from.is_cut_off(shared.dead()) || ledger.sent.get(&begun.id).is_some_and(Sent::is_answered))
    })
}

/// Judges one message that was under way.
fn judge(pair: &Pair, shared: &Shared, begun: &Begun) -> Outcome {
    let notices = &shared.notices;
    let sender_lost = pair.of(begun.from).is_cut_off(shared.dead());
    let receiver = pair.of(begun.from.other());
    if !receiver.is_cut_off(shared.dead()) {
        let ledger = receiver.party.shared.ledger();
        let ended = ledger.received.get(&begun.id).and_then(Received::ended);
        add(&notices.cut, u64::from(ended == Some(Flag::Aborted)));
    }
    let ledger = pair.of(begun.from).party.shared.ledger();
    // A sender without a connection may not even have begun.
    let Some(sent) = ledger.sent.get(&begun.id) else {
        return Ok(());
    };
    let told = |chunk: &Chunk| {
        let (start, end) = chunk.range();
        sent.reports.iter().any(|((from, to), _)| *from <= end && start <= *to)
    };
    for chunk in &sent.chunks {
        let kind = match chunk.status {
            None if sender_lost => &notices.ended,
            None => return Err(format!("no verdict on {chunk:?} of {begun:?}")),
            Some(200) if told(chunk) => &notices.reported,
            Some(200) => &notices.answered,
            Some(_) => &notices.refused,
        };
        add(kind, 1);
    }
    add(&notices.reports, sent.reports.len() as u64);
    // Bytes that the dead relay had answered for, up to the first notice, count as arrived: it cannot be known.
    let refused = sent.chunks.iter().filter(|chunk| chunk.status.is_some_and(|status| status != 200));
    let told = refused.map(|chunk| chunk.start).chain(sent.reports.iter().map(|((from, _), _)| *from));
    let first = told.min().unwrap_or(u64::MAX);
    sent.settle(&[(1, first.saturating_sub(1))], sender_lost)
}

/// A client that writes to one on a dead relay gets a failure.
fn absent_session_is_reported(pair: &mut Pair, shared: &Shared, side: Side) -> Outcome {
    let id = message_id(pair.dice.next());
    let party = &pair.of(side).party;
    let to = party.route(&pair.of(side.other()).party.path());
    let (wish, fate) = (Wish::Yes, None);
    party.send(Outgoing { id: id.clone(), to, total: 200, chunk: None, wish, success: false, fate });
    wait(pair, "news of the dead", |pair| {
        let ledger = pair.of(side).party.shared.ledger();
        Ok(ledger.sent.get(&id).is_some_and(|sent| sent.refused && sent.is_answered()))
    })?;
    let ledger = pair.of(side).party.shared.ledger();
    add(&shared.notices.reports, ledger.sent(&id)?.reports.len() as u64);
    add(&shared.notices.told_later, 1);
    Ok(())
}

fn wait(pair: &Pair, what: &str, look: impl Fn(&Pair) -> Result<bool, String>) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while !look(pair)? {
        for side in Side::BOTH {
            if let Some(fault) = &pair.of(side).party.shared.ledger().fault {
                return Err(fault.clone());
            }
        }
        if Instant::now() > deadline {
            return Err(format!("waited {PATIENCE:?} in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
