//! Taking more than a fair share: of connections, of guesses, of dials, of memory.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;

use super::attack::{Attack, CONNECTION_KIB_MAX, connect_from, two_cores};
use super::slow::send_endlessly;
use testkit_net::account::{DOMAIN, Login, password};
use testkit_net::endpoint::Endpoint;
use testkit_net::{PATIENCE, bounded, until};

/// An address of the local network of this host, one of many.
fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, n)
}

/// Whether the relay closes a silent connection: at once, or not within this wait.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match (&*stream).read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// The connections that the relay has left open, once it has closed all it will close.
fn left_open(all: Vec<TcpStream>, wanted: usize) -> Vec<TcpStream> {
    let mut open = all;
    until("the relay to close what is too much", || {
        open.retain(|stream| !is_closed(stream));
        (open.len() <= wanted).then_some(())
    });
    open
}

/// Asks for a session with these words; the status that this gets.
fn log_in_from(attack: &Attack, source: Ipv4Addr, user: &str, password: &str) -> Option<u16> {
    let mut endpoint = attack.stranger_from(source, user);
    let to = format!("msrps://{DOMAIN}:{};tcp", attack.relay.addresses[0].port());
    let login = Login::new(user, password, &to);
    login.attempt(&mut endpoint).1.status()
}

/// The log names the limit by the key that moves it.
fn names(log: &str, key: &str) {
    assert!(log.contains(&format!("limit=\"{key}\"")), "{key} is not in the log: {log}");
}

// -- connections -----------------------------------------------------------------------------------

#[test]
fn one_address_has_so_many_connections_and_another_as_many() {
    bounded(|| {
        // Silent connections stay meanwhile.
        let limits = "limits: {connections_per_address_max: 30, unauthenticated_per_address_max: 20, \
                      handshake_timeout: 30s}";
        let attack = Attack::with(&two_cores(limits), 100 * CONNECTION_KIB_MAX / 4);
        let to = attack.relay.addresses[0];
        // Without credentials ...
        let mutes = (0..50).map(|_| connect_from(address(1), to)).collect();
        let mutes = left_open(mutes, 20);
        assert_eq!(mutes.len(), 20);
        // That keeps out clients with credentials from there, and no others.
        assert!(left_open(vec![connect_from(address(1), to)], 0).is_empty());
        let mut others: Vec<Endpoint> =
            (0..30).map(|n| attack.client_from(address(2), &format!("user{n}"))).collect();
        assert!(left_open(vec![connect_from(address(2), to)], 0).is_empty());
        for client in &mut others {
            let tid = client.say(&attack.absent_session(), b"Still here");
            assert_eq!(client.status(&tid), 481);
        }
        // Connections that end make room.
        drop((mutes, others));
        attack.is_alone();
        drop(attack.client_from(address(1), "user0"));
        drop(attack.client_from(address(2), "user0"));
        let log = attack.end();
        names(&log, "limits.connections_per_address_max");
        names(&log, "limits.unauthenticated_per_address_max");
    });
}

/// From however many addresses.
#[test]
fn strangers_have_a_share_of_all_connections_and_clients_the_rest() {
    bounded(|| {
        let limits =
            "limits: {connections_max: 100, unauthenticated_percent_max: 20, handshake_timeout: 30s}";
        let attack = Attack::with(&two_cores(limits), 100 * CONNECTION_KIB_MAX / 4);
        let to = attack.relay.addresses[0];
        let mut clients: Vec<Endpoint> = (0..20).map(|n| attack.relay.client(&format!("user{n}"))).collect();
        let mutes = (0..200).map(|n| connect_from(address(n), to)).collect();
        let mutes = left_open(mutes, 20);
        assert_eq!(mutes.len(), 20);
        for client in &mut clients {
            let tid = client.say(&attack.absent_session(), b"Still here");
            assert_eq!(client.status(&tid), 481);
        }
        drop((clients, mutes));
        attack.is_alone();
        drop(attack.relay.client("user0"));
        names(&attack.end(), "limits.unauthenticated_percent_max");
    });
}

// -- guesses ---------------------------------------------------------------------------------------

const FEW_FAILURES: &str =
    "limits: {auth_failures_per_address_max: 12, auth_failures_per_user_max: 9, failure_window: 1h}";

#[test]
fn user_guessed_at_from_everywhere_is_closed_only_to_newcomers() {
    bounded(|| {
        let attack = Attack::with(&two_cores(FEW_FAILURES), 12 * CONNECTION_KIB_MAX);
        let mut victim = attack.relay.client("user0");
        for n in 1..=9 {
            assert_eq!(log_in_from(&attack, address(n), "user0", "a guess"), Some(401));
        }
        // Cores tell each other.
        until("the ban to be everywhere", || {
            let right =
                [20, 21, 22, 23].map(|n| log_in_from(&attack, address(n), "user0", &password("user0")));
            right.iter().all(|status| *status == Some(403)).then_some(())
        });
        // Whether the user exists or not, the answer is the same.
        for n in 1..=9 {
            assert_eq!(log_in_from(&attack, address(n), "absent", "a guess"), Some(401));
        }
        until("the ban to be everywhere", || {
            let wrong = [20, 21, 22, 23].map(|n| log_in_from(&attack, address(n), "absent", "a guess"));
            wrong.iter().all(|status| *status == Some(403)).then_some(())
        });
        // Connected clients stay, and others come in from the guesser's address.
        let tid = victim.say(&attack.absent_session(), b"Still here");
        assert_eq!(victim.status(&tid), 481);
        drop((victim, attack.client_from(address(1), "user1")));
        names(&attack.end(), "limits.auth_failures_per_user_max");
    });
}

#[test]
fn an_address_that_guesses_at_everybody_is_closed_to_newcomers_and_no_other_is() {
    bounded(|| {
        let attack = Attack::with(&two_cores(FEW_FAILURES), 12 * CONNECTION_KIB_MAX);
        let mut neighbour = attack.client_from(address(1), "user0");
        for n in 1..=12 {
            assert_eq!(log_in_from(&attack, address(1), &format!("user{n}"), "a guess"), Some(401));
        }
        until("the ban to be everywhere", || {
            let right = [50, 51, 52, 53].map(|n| {
                let user = format!("user{n}");
                log_in_from(&attack, address(1), &user, &password(&user))
            });
            right.iter().all(|status| *status == Some(403)).then_some(())
        });
        let tid = neighbour.say(&attack.absent_session(), b"Still here");
        assert_eq!(neighbour.status(&tid), 481);
        drop((neighbour, attack.client_from(address(2), "user1")));
        names(&attack.end(), "limits.auth_failures_per_address_max");
    });
}

// -- dials -----------------------------------------------------------------------------------------

/// A port of this host without a listener, for as long as the listener's neighbour is kept.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn asked(client: &mut Endpoint, port: u16) -> String {
    let tid = client.say(&format!("msrp://127.0.0.1:{port}/x;tcp"), b"Open up");
    let answer = client.response(&tid);
    match answer.status() {
        Some(200) => client.request("REPORT").required("Status"),
        status => format!("000 {}", status.unwrap_or_default()),
    }
}

#[test]
fn a_user_who_knocks_at_too_many_doors_is_not_let_try_any_other() {
    bounded(|| {
        let limits = "limits: {dial_failures_per_user_max: 10, failure_window: 1h}";
        let attack = Attack::with(&two_cores(limits), 12 * CONNECTION_KIB_MAX);
        for n in 0..10 {
            let mut scanner = attack.client_on(n % 2, "user0");
            assert!(asked(&mut scanner, closed_port()).starts_with("000 408"));
        }
        // An existing listener is as hidden as a missing one, whichever core is asked.
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        door.set_nonblocking(true).unwrap();
        let port = door.local_addr().unwrap().port();
        until("the ban to be everywhere", || {
            let mut scanners = [attack.client_on(0, "user0"), attack.client_on(1, "user0")];
            let told = scanners.each_mut().map(|scanner| asked(scanner, closed_port()));
            assert!(told.iter().all(|words| words.starts_with("000 408")), "{told:?}");
            attack.relay.log().contains("limits.dial_failures_per_user_max").then_some(())
        });
        for core in 0..2 {
            let mut scanner = attack.client_on(core, "user0");
            assert!(asked(&mut scanner, port).starts_with("000 408"));
        }
        assert_eq!(door.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        // Others get through.
        let mut client = attack.relay.client("user1");
        let tid = client.say(&format!("msrp://127.0.0.1:{port}/x;tcp"), b"Hello");
        assert_eq!(client.status(&tid), 200);
        until("the door to be tried", || door.accept().ok());
        drop(client);
        names(&attack.end(), "limits.dial_failures_per_user_max");
    });
}

// -- memory ----------------------------------------------------------------------------------------

/// Sessions whose clients do not read; at the most each may hold, they would hold four times the budget.
const HOARDERS: usize = 200;
/// `limits.queue_bytes_total`.
const BUDGET_KIB: u64 = 16 << 10;
/// What a session may hold beside its queue: one read and one flush.
const BESIDE_KIB: u64 = 64 + 128;

#[test]
fn all_queues_together_stay_within_their_budget_and_everybody_goes_on() {
    bounded(|| {
        let bound = BUDGET_KIB + HOARDERS as u64 * (BESIDE_KIB + 2 * CONNECTION_KIB_MAX / 4);
        let attack = Attack::with(&two_cores("limits: {queue_bytes_total: 16MiB}"), bound);
        let user = |n: usize| format!("user{}", n % 256);
        let mut senders: Vec<Endpoint> =
            (0..HOARDERS).map(|n| attack.relay.narrow_client(&user(n))).collect();
        let idle: Vec<Endpoint> =
            (0..HOARDERS).map(|n| attack.relay.narrow_client(&user(HOARDERS + n))).collect();
        let sockets: Vec<TcpStream> = senders.iter().map(|s| s.stream().try_clone().unwrap()).collect();
        std::thread::scope(|scope| {
            for (sender, reader) in senders.iter_mut().zip(&idle) {
                sender.wait_for(PATIENCE);
                let peer = reader.path();
                scope.spawn(move || send_endlessly(sender, &peer, &AtomicUsize::new(0)));
            }
            until("the budget to be used up", || {
                attack.relay.log().contains("limits.queue_bytes_total").then_some(())
            });
            for _ in 0..5 {
                attack.goes_on();
            }
            sockets.iter().for_each(|socket| socket.shutdown(std::net::Shutdown::Both).unwrap());
        });
        drop((sockets, senders, idle));
        attack.is_alone();
        // There is room again.
        drop(attack.relay.client("user0"));
        attack.end();
    });
}
