//! Scenes in which all goes well, if slowly: files, chats, slow receivers and senders.

use std::time::{Duration, Instant};

use crate::driver::cast::{Cast, Outcome, Pair, delivered};
use crate::driver::content::{Dice, message_id};
use crate::driver::ledger::Wish;
use crate::driver::listen::Manner;
use crate::driver::party::{Fate, Outgoing, Party};
use crate::driver::stage::add;

/// A transfer that gets its share moves so much.
const QUICK: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

/// Files from one byte to 64 MiB; the large ones are rare.
fn file_size(dice: &mut Dice) -> u64 {
    match dice.between(0, 99) {
        0..=9 => 1,
        10..=29 => dice.size(2, 4095),
        30..=54 => dice.size(4096, 256 << 10),
        55..=84 => dice.size(256 << 10, 4 * MIB),
        85..=96 => dice.size(4 * MIB, 32 * MIB),
        _ => 64 * MIB,
    }
}

pub(crate) fn files(cast: &mut Cast) -> Outcome {
    let Pair { client, other, users } = cast.pair([Manner::default(); 2], None)?;
    for _ in 0..cast.dice.between(1, 5) {
        let both = cast.dice.chance(20);
        let first = cast.dice.chance(50);
        let mut begun = Vec::new();
        for (from, to, wanted) in [(&client, &other, both || first), (&other, &client, both || !first)] {
            if wanted {
                let total = file_size(&mut cast.dice);
                let message = cast.message(from.route(&to.path()), total);
                begun.push((from, to, message.id.clone(), total));
                from.send(message);
            }
        }
        for (from, to, id, total) in begun {
            delivered(from, to, &id, total, QUICK)?;
            add(&cast.stage.tally.files, 1);
        }
        if cast.stage.is_over() {
            break;
        }
        cast.pause(0, 300);
    }
    Pair { client, other, users }.finish()
}

pub(crate) fn chat(cast: &mut Cast) -> Outcome {
    let Pair { mut client, mut other, users } = cast.pair([Manner::default(); 2], None)?;
    let end = Instant::now() + Duration::from_secs(cast.dice.between(5, 40));
    while Instant::now() < end && !cast.stage.is_over() {
        let ids = [words(cast, &client, &other), words(cast, &other, &client)];
        delivered(&client, &other, &ids[0], 200, QUICK)?;
        delivered(&other, &client, &ids[1], 200, QUICK)?;
        add(&cast.stage.tally.chat_messages, 2);
        if cast.dice.chance(2) {
            client.refresh(&users[0], false)?;
        }
        if cast.dice.chance(2) && other.session.is_some() {
            other.refresh(&users[1], false)?;
        }
        cast.pause(10, 200);
    }
    Pair { client, other, users }.finish()
}

/// Says 200 bytes.
fn words(cast: &mut Cast, from: &Party, to: &Party) -> String {
    let id = message_id(cast.dice.next());
    let success = cast.dice.chance(20);
    let to = from.route(&to.path());
    from.send(Outgoing { id: id.clone(), to, total: 200, chunk: None, wish: Wish::Yes, success, fate: None });
    id
}

/// A receiver behind a thin line.
pub(crate) fn slow_receiver(cast: &mut Cast) -> Outcome {
    let pace = cast.dice.between(200, 1500) << 10;
    let slow = Manner { pace: Some(pace), ..Manner::default() };
    one_file(cast, slow, 10 * pace, pace, None)
}

/// A receiver that reads nothing for a while.
pub(crate) fn resting_receiver(cast: &mut Cast) -> Outcome {
    let total = cast.dice.size(MIB, 8 * MIB);
    let rest = (cast.dice.between(1, total - 1), Duration::from_secs(cast.dice.between(3, 12)));
    one_file(cast, Manner { rest: Some(rest), ..Manner::default() }, total, QUICK, None)
}

/// A sender that stops in the middle of a chunk and goes on later.
pub(crate) fn resting_sender(cast: &mut Cast) -> Outcome {
    let total = cast.dice.size(2, MIB);
    let rest = Fate::Rest(Duration::from_secs(cast.dice.between(3, 12)));
    let fate = (cast.dice.between(1, total - 1), rest);
    one_file(cast, Manner::default(), total, QUICK, Some(fate))
}

fn one_file(cast: &mut Cast, manner: Manner, total: u64, pace: u64, fate: Option<(u64, Fate)>) -> Outcome {
    let window = (manner.pace.is_some() || cast.dice.chance(50)).then_some(32 << 10);
    let pair = cast.pair([Manner::default(), manner], window)?;
    let message = Outgoing { fate, ..cast.message(pair.client.route(&pair.other.path()), total) };
    let id = message.id.clone();
    pair.client.send(message);
    delivered(&pair.client, &pair.other, &id, total, pace / 2)?;
    add(&cast.stage.tally.files, 1);
    pair.finish()
}
