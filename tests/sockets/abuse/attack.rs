//! The frame of every attack: a relay, a pair of well-behaved clients, and the checks before, during and after.
//!
//! The pair's speed is not measured, because a machine may be busy. But during an attack another [`FURTHER`] messages
//! must get through ([`Attack::goes_on`]), and only if they do not within [`PATIENCE`] has the attack stopped them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use testkit_net::endpoint::Endpoint;
use testkit_net::process::RelayProcess;
use testkit_net::relay::{HOST, Setup};
use testkit_net::{PATIENCE, contents, until};

/// What a connection of any kind may cost the relay: its TLS state, the head that is coming in
/// (`limits.head_bytes_max`, 16 KiB), its tasks.
pub(crate) const CONNECTION_KIB_MAX: u64 = 64;
/// What one direction between two clients may hold: `limits.queue_bytes_high`, one read across it, and
/// `limits.flush_bytes_max`.
pub(crate) const TRANSFER_KIB_MAX: u64 = 256 + 64 + 128;
/// What the allocator may add to that, and what any work takes for a while.
const SLACK_KIB: u64 = 2048;

/// Messages that must get through while an attack is on.
const FURTHER: usize = 100;
/// Bytes of each: more than may not be interrupted, and several TLS records' worth now and then.
const MESSAGE: usize = 20_000;
/// The last message of the pair.
const FAREWELL: &[u8] = b"That is all.";

/// The first two CPUs that this process may use.
static TWO_CORES: LazyLock<String> = LazyLock::new(|| {
    let cpus = core_affinity::get_core_ids().unwrap();
    assert!(cpus.len() >= 2, "these tests need two CPUs");
    format!("[{}, {}]", cpus[0].id, cpus[1].id)
});

/// The first of them.
static ONE_CORE: LazyLock<String> =
    LazyLock::new(|| format!("[{}]", core_affinity::get_core_ids().unwrap()[0].id));

/// What a test's relay runs on: two cores, and further sections of the config.
pub(crate) fn two_cores(more: &'static str) -> Setup {
    Setup { cores: &TWO_CORES, more, ..Setup::default() }
}

/// The same on one core, where all that has been accepted stands in one order.
pub(crate) fn one_core(more: &'static str) -> Setup {
    Setup { cores: &ONE_CORE, more, ..Setup::default() }
}

/// A relay under attack, and the pair that must not be affected.
pub(crate) struct Attack {
    pub(crate) relay: RelayProcess,
    pair: Pair,
    memory: Memory,
    /// Descriptors open before any client connected.
    descriptors: usize,
    /// Descriptors open while the pair alone is.
    descriptors_of_pair: usize,
    /// What the relay may have grown by.
    bound_kib: u64,
    began: Instant,
}

impl Attack {
    /// A relay with default limits, before an attack that may make it grow by `bound_kib`.
    pub(crate) fn start(bound_kib: u64) -> Self {
        Self::with(&two_cores(""), bound_kib)
    }

    pub(crate) fn with(setup: &Setup, bound_kib: u64) -> Self {
        let relay = RelayProcess::start(setup);
        // What a first conversation opens for good is not the attack's.
        let first = Pair::start(&relay);
        first.goes_on();
        first.end();
        let descriptors = settled(&relay);
        let pair = Pair::start(&relay);
        pair.goes_on();
        let descriptors_of_pair = relay.descriptors();
        let memory = Memory::watch(&relay);
        Self { relay, pair, memory, descriptors, descriptors_of_pair, bound_kib, began: Instant::now() }
    }

    /// The pair keeps conversing during the attack.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        self.pair.goes_on();
    }

    /// Waits until the relay has given up all connections except the pair's, whatever their peers think.
    #[track_caller]
    pub(crate) fn is_alone(&self) {
        until("everybody but the pair to be given up", || {
            (self.relay.descriptors() == self.descriptors_of_pair).then_some(())
        });
    }

    /// A path through this relay to a session that it does not have.
    pub(crate) fn absent_session(&self) -> String {
        let port = self.relay.addresses[0].port();
        format!("msrps://{HOST}:{port}/absent;tcp msrps://absent.invalid:2855/absent;tcp")
    }

    /// A connection from a certain address of this host, which has not authenticated.
    pub(crate) fn stranger_from(&self, source: Ipv4Addr, name: &str) -> Endpoint {
        Endpoint::over(connect_from(source, self.relay.addresses[0]), &self.relay.client, name)
    }

    /// A client that connects from a certain address of this host.
    pub(crate) fn client_from(&self, source: Ipv4Addr, user: &str) -> Endpoint {
        self.stranger_from(source, user).log_in(user, self.relay.addresses[0].port())
    }

    /// A client whose session is at home on a certain core.
    pub(crate) fn client_on(&self, core: usize, user: &str) -> Endpoint {
        on(core, || self.relay.client(user))
    }

    /// The same with little room in its kernel.
    pub(crate) fn narrow_client_on(&self, core: usize, user: &str) -> Endpoint {
        on(core, || self.relay.narrow_client(user))
    }

    /// The attack is over and its connections are gone: the pair goes on, ends its conversation, and nothing is left.
    /// Returns the log.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.goes_on();
        let (before, peak) = self.memory.end();
        let grown = peak.saturating_sub(before);
        let messages = self.pair.end();
        let took = self.began.elapsed();
        println!(
            "{took:.1?}, {messages} messages of the pair; grown by {grown} KiB of at most {}",
            self.bound_kib
        );
        let bound = self.bound_kib + SLACK_KIB;
        assert!(
            grown <= bound,
            "{before} KiB before, {peak} KiB at the most: grown by more than {bound} KiB"
        );
        until("descriptors back to the start", || {
            (self.relay.descriptors() == self.descriptors).then_some(())
        });
        self.relay.signal("TERM");
        let status = self.relay.wait();
        let log = self.relay.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains(" ERROR "), "{log}");
        let lines = |what| log.lines().filter(|line| line.contains(what)).count();
        assert_eq!(lines("Session opened"), lines("Session closed"), "sessions opened and closed");
        log
    }
}

/// Connects from an address of the local network of this host.
pub(crate) fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    try_connect_from(source, to).unwrap()
}

pub(crate) fn try_connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Connects until the kernel chooses the right one of two cores.
fn on(core: usize, connect: impl Fn() -> Endpoint) -> Endpoint {
    // That it never does is one chance in a million million.
    let mut tries = (0..40).map(|_| connect());
    tries.find(|client| client.core() == core).unwrap()
}

/// Descriptors that are open once those of connections that have just ended are closed.
fn settled(relay: &RelayProcess) -> usize {
    let mut before = (relay.descriptors(), Instant::now());
    until("a relay at rest", || {
        let now = relay.descriptors();
        if now != before.0 {
            before = (now, Instant::now());
        }
        // Longer than it takes to close a connection whose peer has closed.
        (before.1.elapsed() > Duration::from_millis(500)).then_some(now)
    })
}

// -- the pair --------------------------------------------------------------------------------------

/// Two clients that converse: one sends message after message, each when the one before has been answered;
/// the other one compares every byte.
struct Pair {
    over: Arc<AtomicBool>,
    arrived: Arc<AtomicUsize>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

impl Pair {
    fn start(relay: &RelayProcess) -> Self {
        let (alice, bob) = (relay.client("alice"), relay.client("bob"));
        [&alice, &bob].into_iter().for_each(|client| client.wait_for(PATIENCE));
        let (over, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let peer = bob.path();
        let told = Arc::clone(&over);
        let sender = std::thread::spawn(move || converse(alice, &peer, &told));
        let count = Arc::clone(&arrived);
        let receiver = std::thread::spawn(move || listen(bob, &count));
        Self { over, arrived, sender, receiver }
    }

    #[track_caller]
    fn goes_on(&self) {
        let begin = self.arrived.load(Ordering::SeqCst);
        until("the pair to go on", || {
            assert!(!self.sender.is_finished() && !self.receiver.is_finished(), "the pair was cut off");
            (self.arrived.load(Ordering::SeqCst) >= begin + FURTHER).then_some(())
        });
    }

    /// Ends the conversation in order; returns how many messages it had.
    fn end(self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        self.sender.join().unwrap();
        self.receiver.join().unwrap();
        self.arrived.load(Ordering::SeqCst)
    }
}

fn converse(mut alice: Endpoint, peer: &str, over: &AtomicBool) {
    for n in 0.. {
        let last = over.load(Ordering::SeqCst);
        let words = if last { FAREWELL.to_vec() } else { contents(n, MESSAGE) };
        let tid = alice.say(peer, &words);
        assert_eq!(alice.status(&tid), 200);
        if last {
            // The relay has the message, and bob will get it.
            return alice.close();
        }
        // The pair uses a part of the processors, not all that the attack leaves.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn listen(mut bob: Endpoint, arrived: &AtomicUsize) {
    for n in 0.. {
        let frame = bob.request("SEND");
        if frame.body == FAREWELL {
            return bob.close();
        }
        assert!(frame.body == contents(n, MESSAGE), "message {n} is not what was sent");
        arrived.fetch_add(1, Ordering::SeqCst);
    }
}

// -- memory ----------------------------------------------------------------------------------------

/// Looks at the relay's memory again and again.
struct Memory {
    over: Arc<AtomicBool>,
    before: u64,
    peak: Arc<AtomicU64>,
    watch: Option<JoinHandle<()>>,
}

impl Memory {
    fn watch(relay: &RelayProcess) -> Self {
        let before = relay.rss_kib();
        let (over, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(before)));
        let (told, seen, resident) = (Arc::clone(&over), Arc::clone(&peak), relay.resident());
        let watch = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst)
                && let Some(kib) = resident()
            {
                seen.fetch_max(kib, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { over, before, peak, watch: Some(watch) }
    }

    /// Before, and at the most.
    fn end(&mut self) -> (u64, u64) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(watch) = self.watch.take() {
            watch.join().unwrap();
        }
        (self.before, self.peak.load(Ordering::SeqCst))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}
