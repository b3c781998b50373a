//! A dying core. The test runs alone in its process, because it counts descriptors.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};
use testkit_net::endpoint::Endpoint;
use testkit_net::relay::{HOST, TestRelay};
use testkit_net::transfer::Outgoing;
use testkit_net::{alone, assert_same, contents, until};

const BYTES: usize = 8 << 20;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Two clients whose sessions are both at home on the core with this index.
fn pair_on(relay: &TestRelay, core: usize) -> (Endpoint, Endpoint) {
    // The kernel chooses the core of a connection: try until it has chosen this one twice.
    let mut found = Vec::new();
    while found.len() < 2 {
        let client = relay.client(&format!("user{}", found.len()));
        if client.core() == core {
            found.push(client);
        } else {
            client.close();
        }
    }
    let bob = found.pop().unwrap();
    (found.pop().unwrap(), bob)
}

#[test]
fn a_core_that_panics_comes_back_and_the_other_cores_sessions_live_on() {
    alone("core_death::a_core_that_panics_comes_back_and_the_other_cores_sessions_live_on", || {
        let relay = TestRelay::start();
        // Memory that the first clients make once is no leak.
        drop(relay.client("alice"));
        until("the first client to be forgotten", || (relay.counted().connections_open == 0).then_some(()));
        let before = descriptors();
        for (deaths, in_task) in [(1, true), (2, false)] {
            let (mut alice, mut bob) = pair_on(&relay, 0);
            let (mut carol, _dave) = pair_on(&relay, 1);
            let data = contents(deaths, BYTES);
            let path = bob.path();
            std::thread::scope(|scope| {
                scope.spawn(|| alice.send_file(&Outgoing::chunks(&path, &data, 10_000)));
                if in_task {
                    relay.server.crash_core(1)
                } else {
                    relay.server.crash_core_loop(1)
                }
                assert_same(&bob.receive_file().data, &data);
            });
            until("the core to be started again", || (relay.counted().core_restarts == deaths).then_some(()));
            // Its clients see the end of their connections.
            let _ = carol.end();
            // No listener of the dead core is left to swallow its share.
            for n in 0..50 {
                relay.client(&format!("user{n}")).close();
            }
            let (mut erin, mut frank) = pair_on(&relay, 1);
            let path = frank.path();
            let tid = erin.say(&path, b"Hello again");
            assert_eq!(erin.status(&tid), 200);
            assert_eq!(frank.request("SEND").body, b"Hello again");
        }
        until("the descriptors to be given back", || (descriptors() <= before).then_some(()));
    });
}

/// Connects, asks one thing, and waits for the answer or the end of the connection.
fn ask_once(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<usize> {
    let scheme = if tls.is_some() { "msrps" } else { "msrp" };
    let ask = format!(
        "MSRP a786hjs2 AUTH\r\nTo-Path: {scheme}://{HOST}:{};tcp\r\n\
         From-Path: {scheme}://client.example.com:49154/bnf6u7y;tcp\r\n-------a786hjs2$\r\n",
        address.port()
    );
    let mut stream = TcpStream::connect(address)?;
    // No core takes longer to come back.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut answer = [0; 512];
    let Some(config) = tls else {
        stream.write_all(ask.as_bytes())?;
        return stream.read(&mut answer);
    };
    let mut tls = ClientConnection::new(Arc::clone(config), HOST.try_into().unwrap()).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut stream);
    stream.write_all(ask.as_bytes())?;
    stream.read(&mut answer)
}

#[test]
fn a_core_that_dies_while_clients_connect_leaves_no_connection_behind() {
    alone("core_death::a_core_that_dies_while_clients_connect_leaves_no_connection_behind", || {
        let relay = TestRelay::start();
        let ways = [(relay.plain(), None), (relay.tls, Some(&relay.client))];
        for (address, tls) in ways {
            assert!(ask_once(address, tls).unwrap() > 0);
        }
        until("the first clients to be forgotten", || (relay.counted().connections_open == 0).then_some(()));
        let before = descriptors();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (address, tls) in ways.into_iter().cycle().take(8) {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let error = ask_once(address, tls).err().map(|error| error.kind());
                        let waits = matches!(error, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut));
                        assert!(!waits, "a connection that has no end, and no core");
                    }
                });
            }
            for (deaths, in_task) in [(1, true), (2, false), (3, true), (4, false)] {
                if in_task {
                    relay.server.crash_core(1);
                } else {
                    relay.server.crash_core_loop(1);
                }
                until("the core to be started again", || {
                    (relay.counted().core_restarts == deaths).then_some(())
                });
            }
            over.store(true, Ordering::Relaxed);
        });
        until("the descriptors to be given back", || (descriptors() <= before).then_some(()));
    });
}
