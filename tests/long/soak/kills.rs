//! Scenes in which one end leaves, or was never there: the receiver has a true beginning of what was sent, and hears
//! its end; a sender that is still connected hears of the rest.

use std::net::Ipv4Addr;
use std::time::Duration;

use msrp_proto::parser::Flag;

use super::churn::UNLUCKY;
use super::door::Door;
use crate::driver::cast::{Cast, Outcome, delivered, listener};
use crate::driver::content::message_id;
use crate::driver::ledger::{Range, Wish};
use crate::driver::line::Leave;
use crate::driver::listen::Manner;
use crate::driver::party::{Fate, Outgoing, Party};
use crate::driver::stage::{add, own_address};

const HOW: [Leave; 3] = [Leave::InOrder, Leave::Truncate, Leave::Reset];

/// The sender leaves in mid-file.
pub(crate) fn sender_dies(cast: &mut Cast) -> Outcome {
    let first = cast.dice.chance(50);
    let [mut from, to] = cast.pair([Manner::default(); 2], None)?.either(first);
    let total = cast.dice.size(1000, 16 << 20);
    let (at, how) = (cast.dice.between(0, total - 1), cast.dice.pick(&HOW));
    let fate = Some((at, Fate::Leave(how)));
    let message = Outgoing { fate, ..cast.message(from.route(&to.path()), total) };
    let id = message.id.clone();
    from.send(message);
    from.wait("the sender to go", |ledger| ledger.broken_off.then_some(()))?;
    let path = from.path();
    from.let_go(how);
    add(&cast.stage.tally.kills, 1);
    absent_session_is_reported(cast, &to, &path)?;
    let ended = |ledger: &mut crate::driver::ledger::Ledger| match ledger.received.get(&id) {
        None => Some((0, None)),
        Some(received) => received.ended().map(|flag| (received.bytes, Some(flag))),
    };
    let (bytes, flag) = to.wait("the end of a dead sender's chunk", ended)?;
    if bytes > at || flag == Some(Flag::Last) {
        return Err(format!("{at} bytes were sent, {bytes} arrived, then {flag:?}"));
    }
    to.finish()
}

/// The receiver leaves in mid-file, perhaps after it has not read for a while.
pub(crate) fn receiver_dies(cast: &mut Cast) -> Outcome {
    let total = cast.dice.size(10_000, 16 << 20);
    let vanish = cast.dice.between(0, total * 4 / 5);
    let dying = Manner { vanish: Some(vanish.max(1)), ..Manner::default() };
    let window = cast.dice.chance(50).then_some(32 << 10);
    let client_dies = cast.dice.chance(30);
    let manners = if client_dies { [dying, Manner::default()] } else { [Manner::default(), dying] };
    let [from, mut to] = cast.pair(manners, window)?.either(!client_dies);
    let how = cast.dice.pick(&HOW);
    let message = cast.message(from.route(&to.path()), total);
    let id = message.id.clone();
    from.send(message);
    to.wait("the receiver to have had enough", |ledger| ledger.vanished.then_some(()))?;
    if cast.dice.chance(50) {
        cast.pause(100, 5000);
    }
    let path = to.path();
    to.let_go(how);
    add(&cast.stage.tally.kills, 1);
    let arrived = to
        .shared
        .ledger()
        .received
        .get(&id)
        .map(crate::driver::ledger::Received::settled)
        .unwrap_or_default();
    settled(&from, &id, &arrived)?;
    absent_session_is_reported(cast, &from, &path)?;
    // No byte was reported twice meanwhile.
    settled(&from, &id, &arrived)?;
    from.finish()
}

/// Waits until the sender knows the fate of everything. The relay closes an endpoint's connection when the session that
/// it was for has ended.
fn settled(from: &Party, id: &str, arrived: &[Range]) -> Outcome {
    let mut last = Ok(());
    let foreign = from.session.is_none();
    let known = from.wait("what is owed", |ledger| {
        let closed = foreign && ledger.end.is_some();
        let sent = ledger.sent.get(id)?;
        last = sent.settle(arrived, closed);
        ((closed || sent.is_answered()) && last.is_ok()).then_some(())
    });
    known.map_err(|error| format!("{error}; {last:?}"))
}

/// A client that writes to a session that has ended gets a failure. An endpoint without a relay may find its own
/// connection closed: the session that it was for has ended.
fn absent_session_is_reported(cast: &mut Cast, from: &Party, path: &str) -> Outcome {
    let id = message_id(cast.dice.next());
    let to = from.route(path);
    from.send(Outgoing {
        id: id.clone(),
        to,
        total: 200,
        chunk: None,
        wish: Wish::Yes,
        success: false,
        fate: None,
    });
    let foreign = from.session.is_none();
    from.wait("news of the dead", |ledger| {
        let told = ledger.sent.get(&id).is_some_and(|sent| sent.refused);
        (told || foreign && ledger.end.is_some()).then_some(())
    })
}

/// The sender aborts a message; the next one arrives whole.
pub(crate) fn sender_changes_its_mind(cast: &mut Cast) -> Outcome {
    let first = cast.dice.chance(50);
    let [from, to] = cast.pair([Manner::default(); 2], None)?.either(first);
    let total = cast.dice.size(3000, 4 << 20);
    let at = cast.dice.between(1, total - 1);
    let message = Outgoing { fate: Some((at, Fate::Abort)), ..cast.message(from.route(&to.path()), total) };
    let id = message.id.clone();
    from.send(message);
    let next = cast.message(from.route(&to.path()), 50_000);
    let next_id = next.id.clone();
    from.send(next);
    delivered(&from, &to, &next_id, 50_000, 1 << 20)?;
    from.wait("answers", |ledger| ledger.sent.get(&id)?.is_answered().then_some(()))?;
    from.shared.ledger().sent(&id)?.check_clean()?;
    // A relay may drop what it has not forwarded of such a message.
    let received = to.shared.enter(|ledger| ledger.received.get(&id).map(|r| (r.bytes, r.ended())));
    if let Some((bytes, flag)) = received
        && (bytes > at || flag != Some(Flag::Aborted))
    {
        return Err(format!("broken off after {at} bytes; {bytes} arrived, then {flag:?}"));
    }
    let [client, other] = if first { [from, to] } else { [to, from] };
    client.finish()?;
    other.finish()
}

/// The sender closes in order as soon as all has been answered, while its receiver is still reading.
pub(crate) fn sender_leaves_early(cast: &mut Cast) -> Outcome {
    let slow = Manner { pace: Some(100 << 10), ..Manner::default() };
    let pair = cast.pair([Manner::default(), slow], Some(16 << 10))?;
    let total = cast.dice.size(1000, 200_000);
    let message = Outgoing {
        wish: Wish::Yes,
        success: false,
        ..cast.message(pair.client.route(&pair.other.path()), total)
    };
    let id = message.id.clone();
    pair.client.send(message);
    pair.client.wait("all answers", |ledger| ledger.sent.get(&id)?.is_answered().then_some(()))?;
    pair.client.shared.ledger().sent(&id)?.check_clean()?;
    pair.client.finish()?;
    pair.other.wait("a message whose sender has left", |ledger| {
        ledger.received.get(&id)?.is_complete().then_some(())
    })?;
    pair.other.finish()
}

/// A next hop that cannot be reached: nothing listens; the peer closes at once; the peer sends nothing in TLS.
pub(crate) fn unreachable(cast: &mut Cast) -> Outcome {
    // Another user each time: too many failed dials of one are a limit.
    let user = format!("unlucky{}", cast.dice.between(0, UNLUCKY - 1));
    let client = cast.client_as(&user, false, Manner::default(), None)?;
    let address = own_address(3, cast.dice.next());
    let (uri, held) = nowhere(cast, address)?;
    let total = cast.dice.size(1, 100_000);
    let wish = cast.dice.pick(&[Wish::Implied, Wish::Yes, Wish::Partial]);
    let message = Outgoing { wish, success: false, ..cast.message(client.route(&uri), total) };
    let id = message.id.clone();
    add(&cast.stage.tally.dials, 1);
    client.send(message);
    let told = settled(&client, &id, &[]);
    drop(held);
    told?;
    client.finish()
}

fn nowhere(cast: &mut Cast, address: Ipv4Addr) -> Result<(String, Option<Door>), String> {
    let tls = cast.dice.chance(70);
    let (listener, uri) = listener(address, tls)?;
    if !tls || cast.dice.chance(50) {
        return Ok((uri, None));
    }
    listener.set_nonblocking(false).map_err(|error| error.to_string())?;
    let rest = if cast.dice.chance(50) { Duration::from_secs(15) } else { Duration::ZERO };
    Ok((uri, Some(Door::open(listener, rest)?)))
}
