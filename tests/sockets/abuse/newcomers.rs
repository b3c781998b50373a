//! A flood of connections that send nothing, or never finish, and the clients that come meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use msrprelay::telemetry::{Site, WINDOW_SECONDS};
use rlimit::Resource;

use super::attack::{Attack, CONNECTION_KIB_MAX, one_core, try_connect_from, two_cores};
use testkit_net::endpoint::Endpoint;
use testkit_net::{bounded, until};

/// Addresses that the flood comes from.
const SOURCES: u8 = 5;
/// Connections that each of them holds; one that the relay closes is opened again at once.
const HELD: usize = 24;
/// Clients that come while the flood lasts.
const CLIENTS: u8 = 30;

/// The beginning of a TLS record that never ends.
const BEGINNING: &[u8] = b"\x16\x03\x01\x02\x00\x01";

/// The flood: one thread for each source.
struct Flood {
    over: Arc<AtomicBool>,
    /// Connections that the relay has closed.
    closed: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(to: SocketAddr) -> Self {
        let (over, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (1..=SOURCES).map(|n| {
            let (over, closed) = (Arc::clone(&over), Arc::clone(&closed));
            std::thread::spawn(move || pour(Ipv4Addr::new(127, 0, 4, n), to, &over, &closed))
        });
        let flood = Self { threads: threads.collect(), over, closed };
        until("the flood to find no room", || (flood.closed() > 0).then_some(()));
        flood
    }

    fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Holds as many connections as it may until it is told to end. Every third one begins a handshake.
fn pour(source: Ipv4Addr, to: SocketAddr, over: &AtomicBool, closed: &AtomicUsize) {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut opened = 0_usize;
    while !over.load(Ordering::SeqCst) {
        let before = held.len();
        held.retain(is_open);
        closed.fetch_add(before - held.len(), Ordering::SeqCst);
        while held.len() < HELD
            && let Ok(mut stream) = try_connect_from(source, to)
        {
            opened += 1;
            if opened.is_multiple_of(3) {
                // It may be closed already.
                let _ = stream.write_all(BEGINNING);
            }
            stream.set_nonblocking(true).unwrap();
            held.push(stream);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_open(stream: &TcpStream) -> bool {
    let mut stream = stream;
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Clients come one after the other, each from an address of its own, and log in at the first try. All stay. No time
/// limit ends the flood's connections meanwhile: they must make room for the clients.
fn clients_get_in(attack: &Attack, flood: &Flood) {
    let mut clients: Vec<Endpoint> = Vec::new();
    for n in 1..=CLIENTS {
        let before = flood.closed();
        clients.push(attack.client_from(Ipv4Addr::new(127, 0, 5, n), &format!("user{n}")));
        until("the flood to go on", || (flood.closed() > before).then_some(()));
    }
    for client in &mut clients {
        let tid = client.say(&attack.absent_session(), b"Still here");
        assert_eq!(client.status(&tid), 481);
    }
}

fn flooded(limits: &'static str) -> String {
    let attack = Attack::with(&two_cores(limits), 150 * CONNECTION_KIB_MAX);
    let flood = Flood::start(attack.relay.addresses[0]);
    clients_get_in(&attack, &flood);
    flood.end();
    attack.is_alone();
    attack.end()
}

#[test]
fn a_flood_that_fills_the_share_of_newcomers_keeps_no_client_out() {
    bounded(|| {
        let log = flooded(
            "limits: {connections_max: 200, unauthenticated_percent_max: 20, handshake_timeout: 60s, \
             first_request_timeout: 10m}",
        );
        assert!(log.contains("limit=\"limits.unauthenticated_percent_max\""), "{log}");
    });
}

#[test]
fn a_flood_that_fills_the_relay_keeps_no_client_out() {
    bounded(|| {
        let log = flooded(
            "limits: {connections_max: 90, unauthenticated_percent_max: 100, handshake_timeout: 60s, \
             first_request_timeout: 10m}",
        );
        assert!(log.contains("limit=\"limits.connections_max\""), "{log}");
    });
}

/// The relay may be configured for more connections than the system lets it have.
///
/// On one core: descriptors belong to the process, but each core makes room with its own newcomers. A core that has had
/// no time may hold none but the client, while the other core holds the whole flood.
#[test]
fn a_flood_that_takes_all_descriptors_keeps_no_client_out() {
    bounded(|| {
        let setup = one_core("limits: {handshake_timeout: 60s, first_request_timeout: 10m}");
        let attack = Attack::with(&setup, 150 * CONNECTION_KIB_MAX);
        let began = Instant::now();
        let most = u64::try_from(attack.relay.descriptors()).unwrap() + 60;
        let pid = i32::try_from(attack.relay.pid()).unwrap();
        rlimit::prlimit(pid, Resource::NOFILE, Some((most, most)), None).unwrap();
        let flood = Flood::start(attack.relay.addresses[0]);
        clients_get_in(&attack, &flood);
        flood.end();
        attack.is_alone();
        let log = attack.end();
        let told = log.lines().filter(|line| line.contains("Cannot accept connections for now")).count();
        let windows = began.elapsed().as_secs() / u64::from(WINDOW_SECONDS) + 1;
        let told_max = windows as usize * Site::CannotAccept.quota().all as usize;
        assert!((1..=told_max).contains(&told), "told {told} times: {log}");
    });
}
