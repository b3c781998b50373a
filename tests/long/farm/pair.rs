//! Two clients with a session between them, each behind the relay that the DNS has led it to, and their messages.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use msrp_client::locate;

use super::crowd::Shared;
use super::relays::{DOMAIN, RELAYS, host, relay_at};
use crate::driver::cast::{Outcome, open};
use crate::driver::content::{Dice, message_id};
use crate::driver::ledger::Wish;
use crate::driver::line::Leave;
use crate::driver::listen::Manner;
use crate::driver::party::{Outgoing, PATIENCE, Party};
use crate::driver::stage::{add, own_address};
use crate::driver::visitor::{Approach, Visitor};
use testkit_net::account::password;

/// Between two looks at how a message fares.
const LOOK: Duration = Duration::from_millis(10);
/// How long the DNS may take.
const DNS_LIMIT: Duration = Duration::from_secs(10);
/// A transfer that gets its share moves so much a second at the least.
const SLOWEST: u64 = 128 << 10;
/// After so long without news from beyond a dead relay, a client checks whether the other side lives.
const DOUBT: Duration = Duration::from_secs(5);
/// Messages that are remembered after they have arrived.
const REMEMBERED: usize = 6;
/// The block of this machine's addresses that clients come from.
const CLIENTS: u8 = 1;

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Caller,
    Callee,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Caller, Self::Callee];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// A client and the relays it is behind, the nearest first.
pub(crate) struct Client {
    pub(crate) party: Party,
    pub(crate) relays: Vec<usize>,
}

impl Client {
    /// Whether its own connection has ended with a relay.
    pub(crate) fn is_cut_off(&self, dead: Option<usize>) -> bool {
        self.relays.first().copied() == dead
    }
}

/// A message that was begun.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) from: Side,
    pub(crate) id: String,
    pub(crate) total: u64,
}

pub(crate) struct Pair {
    number: usize,
    clients: [Client; 2],
    pub(crate) dice: Dice,
    /// Begun, and not known to have arrived.
    pub(crate) under_way: Vec<Begun>,
    /// The last arrived messages: a relay that does not get the other side's answer still reports a failure.
    pub(crate) arrived: VecDeque<Begun>,
    /// Messages that a dead relay cut short, with sender and length: they are sent again whole.
    pub(crate) owed: Vec<(Side, u64)>,
}

impl Pair {
    /// Both log in where the DNS leads them, and the callee opens the session.
    pub(crate) fn meet(shared: &Shared, number: usize, mut dice: Dice) -> Result<Self, String> {
        let clients = meet(shared, number, &mut dice)?;
        Ok(Self { number, clients, dice, under_way: Vec::new(), arrived: VecDeque::new(), owed: Vec::new() })
    }

    pub(crate) const fn of(&self, side: Side) -> &Client {
        match side {
            Side::Caller => &self.clients[0],
            Side::Callee => &self.clients[1],
        }
    }

    /// The relays between the two, in order; one that both are behind, and that has it all to itself, is there once.
    fn way(&self) -> Vec<usize> {
        let [caller, callee] = &self.clients;
        let mut way: Vec<usize> = caller.relays.iter().chain(callee.relays.iter().rev()).copied().collect();
        way.dedup();
        way
    }

    /// How many relays a message passes.
    pub(crate) fn hops(&self) -> usize {
        self.way().len()
    }

    pub(crate) fn is_on(&self, relay: Option<usize>) -> bool {
        relay.is_some_and(|relay| self.way().contains(&relay))
    }

    /// For findings.
    pub(crate) fn name(&self) -> String {
        let way: Vec<_> = self.way().iter().map(|relay| (relay + 1).to_string()).collect();
        format!("pair {} by relays {}", self.number, way.join("-"))
    }

    /// Some words each way, or a file. Owed messages come first.
    pub(crate) fn round(&mut self, shared: &Shared) -> Outcome {
        while let Some((from, total)) = self.owed.last().copied() {
            self.transfer(shared, from, total)?;
            self.owed.pop();
            add(&shared.paid, 1);
        }
        if self.dice.chance(50) {
            return self.chat(shared);
        }
        let from = if self.dice.chance(50) { Side::Caller } else { Side::Callee };
        let total = if self.dice.chance(25) { shared.size } else { self.dice.size(1, shared.size) };
        self.transfer(shared, from, total)
    }

    /// A file.
    pub(crate) fn transfer(&mut self, shared: &Shared, from: Side, total: u64) -> Outcome {
        self.begin(from, total);
        self.all_arrive(shared)?;
        add(&shared.stage.tally.files, 1);
        Ok(())
    }

    fn chat(&mut self, shared: &Shared) -> Outcome {
        for _ in 0..self.dice.between(2, 8) {
            Side::BOTH.into_iter().for_each(|from| self.begin(from, 200));
            self.all_arrive(shared)?;
            add(&shared.stage.tally.chat_messages, 2);
            std::thread::sleep(Duration::from_millis(self.dice.between(10, 200)));
            if shared.stage.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// Begins to send a message. All are answered: a dead relay's clients must learn the fate of each SEND.
    fn begin(&mut self, from: Side, total: u64) {
        let id = message_id(self.dice.next());
        let outgoing = Outgoing {
            id: id.clone(),
            to: self.of(from).party.route(&self.of(from.other()).party.path()),
            total,
            chunk: self.dice.chance(50).then_some(64 << 10),
            wish: if self.dice.chance(50) { Wish::Implied } else { Wish::Yes },
            success: self.dice.chance(25),
            fate: None,
        };
        self.of(from).party.send(outgoing);
        self.under_way.push(Begun { from, id, total });
    }

    /// Waits until everything under way has arrived and was answered, without failures.
    fn all_arrive(&mut self, shared: &Shared) -> Outcome {
        let bytes: u64 = self.under_way.iter().map(|begun| begun.total).sum();
        let limit = PATIENCE + Duration::from_secs(bytes / SLOWEST);
        let deadline = Instant::now() + limit;
        let mut in_doubt = None;
        while let Some(begun) = self.under_way.last() {
            if self.has_arrived(begun)? {
                self.arrived.extend(self.under_way.pop());
                self.forget_all_but(REMEMBERED)?;
            } else if Instant::now() > deadline {
                return Err(format!("waited {limit:?} in vain for {begun:?}"));
            } else if self.is_on(shared.dead()) && in_doubt.get_or_insert_with(Instant::now).elapsed() > DOUBT
            {
                // Bytes that a relay between two others answered for are lost silently.
                return Err(format!("nothing was heard of {begun:?}"));
            } else {
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn has_arrived(&self, begun: &Begun) -> Result<bool, String> {
        let (from, to) = (&self.of(begun.from).party, &self.of(begun.from.other()).party);
        let success = {
            let ledger = to.shared.ledger();
            if let Some(fault) = &ledger.fault {
                return Err(fault.clone());
            }
            let received = ledger.received.get(&begun.id);
            match received.filter(|received| received.is_complete()) {
                Some(received) => Some(received.success),
                None if ledger.end.is_some() => return Err("the receiver's connection has ended".to_owned()),
                None => None,
            }
        };
        let ledger = from.shared.ledger();
        if let Some(fault) = &ledger.fault {
            return Err(fault.clone());
        }
        let sent = ledger.sent.get(&begun.id);
        if let Some(sent) = sent {
            sent.check_clean()?;
            if let Some(success) = success
                && sent.is_answered()
                && sent.successes.len() == usize::from(success)
            {
                let all_of_it = sent.successes.iter().all(|range| *range == (1, begun.total));
                return all_of_it.then_some(true).ok_or_else(|| format!("success of {:?}", sent.successes));
            }
        }
        if ledger.end.is_some() {
            return Err("the sender's connection has ended".to_owned());
        }
        // A receiver that has gone reports no success any more.
        if to.shared.ledger().end.is_some() { Err("the receiver has gone".to_owned()) } else { Ok(false) }
    }

    /// Arrived messages must have had no other notice.
    fn forget_all_but(&mut self, count: usize) -> Outcome {
        while self.arrived.len() > count
            && let Some(Begun { from, id, .. }) = self.arrived.pop_front()
        {
            let sender = &self.of(from).party.shared;
            sender.enter(|ledger| {
                let clean = ledger.sent(&id)?.check_clean();
                ledger.forget(&id);
                clean
            })?;
            self.of(from.other()).party.shared.enter(|ledger| ledger.forget(&id));
        }
        Ok(())
    }

    /// Both log in anew; a client whose relay still lives leaves it in order.
    pub(crate) fn move_on(self, shared: &Shared) -> Result<Self, String> {
        let Self { number, clients, mut dice, owed, .. } = self;
        for mut client in clients {
            if client.is_cut_off(shared.dead()) {
                client.party.let_go(Leave::Truncate);
            } else {
                client.party.finish()?;
            }
        }
        let clients = meet(shared, number, &mut dice)?;
        Ok(Self { number, clients, dice, under_way: Vec::new(), arrived: VecDeque::new(), owed })
    }

    /// Both leave in order.
    pub(crate) fn finish(mut self) -> Outcome {
        self.forget_all_but(0)?;
        self.clients.into_iter().try_for_each(|client| client.party.finish())
    }
}

fn meet(shared: &Shared, number: usize, dice: &mut Dice) -> Result<[Client; 2], String> {
    let caller = log_in(shared, 2 * number + 1, dice)?;
    let callee = log_in(shared, 2 * number + 2, dice)?;
    open(&callee.party, &caller.party)?;
    Ok([caller, callee])
}

/// Like a client: SRV, addresses, one after the other until one answers; AUTH.
fn log_in(shared: &Shared, user: usize, dice: &mut Dice) -> Result<Client, String> {
    let located = {
        // One after the other: a name server's socket holds only so many questions.
        let _turn = shared.asking.lock();
        locate(DOMAIN, Some(shared.dns), DNS_LIMIT).map_err(|error| error.to_string())?
    };
    let name = format!("user{user}");
    for route in located.routes(|below| dice.between(0, u64::from(below) - 1) as u32) {
        let relay = relay_at(route.address).ok_or_else(|| format!("a strange address: {route:?}"))?;
        let from = own_address(CLIENTS, user as u64);
        let approach = Approach { from, tls: true, old_tls: dice.chance(25), window: None };
        let address = SocketAddr::new(route.address, route.relay.port);
        let visitor = Visitor::connect_to(&shared.stage, address, &route.relay.host, approach);
        let attempt = visitor.and_then(|mut visitor| {
            let status = visitor.log_in(&name, &password(&name), None)?;
            Ok((visitor, status))
        });
        match attempt {
            Ok((visitor, 200)) => {
                let (visitor, relays) = go_further(shared, visitor, &name, relay, dice)?;
                return Ok(Client { party: Party::start(visitor, Manner::default())?, relays });
            }
            Ok((_, status)) => return Err(format!("AUTH of {name} with the right password: {status}")),
            Err(_) if shared.dead() == Some(relay) => add(&shared.detours, 1),
            Err(what) => return Err(format!("{name} at relay {}: {what}", relay + 1)),
        }
    }
    Err(format!("{name} finds no relay"))
}

/// Some clients also want to be behind a second relay, and log in there through the first (RFC 4976, 5.1).
fn go_further(
    shared: &Shared,
    mut visitor: Visitor,
    name: &str,
    near: usize,
    dice: &mut Dice,
) -> Result<(Visitor, Vec<usize>), String> {
    if !dice.chance(shared.behind_two) {
        return Ok((visitor, vec![near]));
    }
    let others: Vec<_> = (0..RELAYS).filter(|at| *at != near && Some(*at) != shared.dead()).collect();
    let far = dice.pick(&others);
    let relay = format!("msrps://{}:{};tcp", host(far), shared.port);
    let nearer = visitor.session.take().unwrap_or_default();
    let answer = visitor.authenticate(&format!("{nearer} {relay}"), &relay, (name, &password(name)), None)?;
    let use_path = answer.header("Use-Path").unwrap_or_default();
    if answer.status() != Some(200) || !use_path.starts_with(&format!("{nearer} ")) {
        return Err(format!("AUTH of {name} at relay {} through {}: {answer:?}", far + 1, near + 1));
    }
    visitor.session = Some(use_path);
    add(&shared.through[far], 1);
    Ok((visitor, vec![near, far]))
}
