//! The two ends of a scene, with an open session between them. Both are clients of the relay, or one is an endpoint
//! without a relay that is dialled or calls in.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::content::{Dice, message_id};
use super::ledger::Wish;
use super::listen::Manner;
use super::party::{Outgoing, PATIENCE, Party};
use super::stage::{Stage, add, own_address};
use super::visitor::{Approach, Visitor};
use testkit_net::frame::{Request, fresh_id};

pub(crate) type Outcome = Result<(), String>;

/// Blocks of this machine's addresses, by what comes from them.
const CLIENTS: u8 = 1;
const ENDPOINTS: u8 = 2;

/// One place in the mix, which plays scene after scene.
pub(crate) struct Cast {
    pub(crate) stage: Arc<Stage>,
    pub(crate) dice: Dice,
    pub(crate) slot: u64,
}

pub(crate) struct Pair {
    /// Always a client of the relay.
    pub(crate) client: Party,
    pub(crate) other: Party,
    /// The users; the second one if `other` is a client too.
    pub(crate) users: [String; 2],
}

impl Pair {
    pub(crate) fn either(self, first: bool) -> [Party; 2] {
        if first { [self.client, self.other] } else { [self.other, self.client] }
    }

    pub(crate) fn finish(self) -> Outcome {
        self.client.finish()?;
        self.other.finish()
    }
}

impl Cast {
    pub(crate) fn user(&self, second: bool) -> String {
        format!("soak{}", self.slot * 2 + u64::from(second))
    }

    /// How a client of this place comes to the relay.
    pub(crate) fn approach(&mut self, second: bool, window: Option<usize>) -> Approach {
        let from = own_address(CLIENTS, self.slot * 2 + u64::from(second));
        Approach { from, tls: true, old_tls: self.dice.chance(25), window }
    }

    pub(crate) fn client(
        &mut self,
        second: bool,
        manner: Manner,
        window: Option<usize>,
    ) -> Result<Party, String> {
        self.client_as(&self.user(second), second, manner, window)
    }

    pub(crate) fn client_as(
        &mut self,
        user: &str,
        second: bool,
        manner: Manner,
        window: Option<usize>,
    ) -> Result<Party, String> {
        let approach = self.approach(second, window);
        let mut visitor = Visitor::connect(&self.stage, approach)?;
        let password = self.stage.password.clone();
        match visitor.log_in(user, &password, None)? {
            200 => Party::start(visitor, manner),
            status => Err(format!("AUTH with the right password: {status}")),
        }
    }

    /// Two ends, of which the first is a client and the second behaves as told.
    pub(crate) fn pair(&mut self, manners: [Manner; 2], window: Option<usize>) -> Result<Pair, String> {
        let users = [self.user(false), self.user(true)];
        let client = self.client(false, manners[0], None)?;
        let tls = self.dice.chance(50);
        let other = match self.dice.between(0, 99) {
            0..=14 => self.dialled(&client, tls, manners[1])?,
            15..=29 => self.calls_in(&client, tls, manners[1], window)?,
            _ => {
                let other = self.client(true, manners[1], window)?;
                open(&other, &client)?;
                other
            }
        };
        Ok(Pair { client, other, users })
    }

    /// An endpoint that the relay connects to.
    fn dialled(&mut self, client: &Party, tls: bool, manner: Manner) -> Result<Party, String> {
        let address = own_address(ENDPOINTS, self.slot);
        let (listener, uri) = listener(address, tls)?;
        let id = message_id(self.dice.next());
        add(&self.stage.tally.dials, 1);
        ask_to_open(client, &uri, &id)?;
        let stream = accept(&listener)?;
        let visitor = Visitor::accepted(&self.stage, stream, tls, uri)?;
        let other = Party::start(visitor, manner)?;
        hear_opening(&other, &id)?;
        Ok(other)
    }

    /// An endpoint without a relay that connects to ours.
    fn calls_in(
        &self,
        client: &Party,
        tls: bool,
        manner: Manner,
        window: Option<usize>,
    ) -> Result<Party, String> {
        let from = own_address(ENDPOINTS, self.slot);
        let visitor = Visitor::connect(&self.stage, Approach { from, tls, old_tls: false, window })?;
        let other = Party::start(visitor, manner)?;
        open(&other, client)?;
        Ok(other)
    }

    /// A message of so many bytes, in a manner drawn by lot.
    pub(crate) fn message(&mut self, to: String, total: u64) -> Outgoing {
        let wish = self.dice.pick(&[Wish::Implied, Wish::Yes, Wish::Yes, Wish::Partial, Wish::No]);
        Outgoing {
            id: message_id(self.dice.next()),
            to,
            total,
            chunk: self.dice.chance(50).then_some(10_000),
            wish,
            success: self.dice.chance(25),
            fate: None,
        }
    }

    pub(crate) fn pause(&mut self, from_ms: u64, to_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.dice.between(from_ms, to_ms)));
    }
}

/// A listener and the URI that leads to it.
pub(crate) fn listener(address: Ipv4Addr, tls: bool) -> Result<(TcpListener, String), String> {
    let bound = TcpListener::bind(SocketAddr::from((address, 0))).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        Ok((listener, at))
    });
    let (listener, at) = bound.map_err(|error| format!("cannot listen: {error}"))?;
    let scheme = if tls { "msrps" } else { "msrp" };
    Ok((listener, format!("{scheme}://{at}/{};tcp", fresh_id())))
}

/// Waits for the relay to connect.
pub(crate) fn accept(listener: &TcpListener) -> Result<TcpStream, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                return stream.set_nonblocking(false).map(|()| stream).map_err(|error| error.to_string());
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(format!("cannot accept: {error}"));
            }
            Err(_) if Instant::now() > deadline => return Err("the relay did not connect".to_owned()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A session is opened as clients do: with a SEND that has nothing in it.
pub(crate) fn open(from: &Party, to: &Party) -> Outcome {
    let id = fresh_id();
    let id = format!("m{}", &id[1..]);
    ask_to_open(from, &to.path(), &id)?;
    hear_opening(to, &id)
}

fn ask_to_open(from: &Party, peer: &str, id: &str) -> Outcome {
    let answer = from.ask(Request::send(&from.route(peer), &from.shared.uri, id, "1-0/0"))?;
    match answer.status() {
        Some(200) => Ok(()),
        _ => Err(format!("the opening was refused: {answer:?}")),
    }
}

fn hear_opening(to: &Party, id: &str) -> Outcome {
    to.wait("the opening", |ledger| ledger.received.get(id)?.is_complete().then_some(()))?;
    to.shared.enter(|ledger| ledger.forget(id));
    Ok(())
}

/// Waits until a message has arrived whole and its sender has all its answers.
pub(crate) fn delivered(from: &Party, to: &Party, id: &str, total: u64, bytes_per_second: u64) -> Outcome {
    let limit = PATIENCE + Duration::from_secs(total / bytes_per_second);
    to.wait_for(limit, "the whole message", |ledger| ledger.received.get(id)?.is_complete().then_some(()))?;
    let told = |sent: &super::ledger::Sent, success: bool| {
        let reported = !success || !sent.successes.is_empty();
        (sent.refused || sent.is_answered() && reported).then_some(())
    };
    let success = to.shared.ledger().received.get(id).is_some_and(|received| received.success);
    from.wait("the message's answers", |ledger| told(ledger.sent.get(id)?, success))?;
    from.shared.enter(|ledger| {
        let sent = ledger.sent(id)?;
        sent.check_clean()?;
        let expected: &[_] = if success { &[(1, total)] } else { &[] };
        if sent.successes != expected {
            return Err(format!("success was reported so: {:?}, not {expected:?}", sent.successes));
        }
        ledger.forget(id);
        Ok(())
    })?;
    to.shared.enter(|ledger| ledger.forget(id));
    Ok(())
}
