//! The zones of deploy/dns/, served by a real name server to real clients of two relays: how clients spread, and what
//! happens when a relay ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use msrp_client::{
    AuthOptions, ClientError, Credentials, Endpoint, Located, Security, Trust, authenticate, locate,
    run_on_executor,
};
use msrp_relay_core::Limit;
use msrprelay::config::Config;
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::LookUpEnd;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use testkit_net::endpoint::Endpoint as Foreign;
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::zone::{HalfSilent, Zone};
use testkit_net::{assert_same, bounded, contents, until};

const SEVERAL_TARGETS: &str = include_str!("../../deploy/dns/several-srv-targets.zone");
const ONE_NAME: &str = include_str!("../../deploy/dns/one-name-several-addresses.zone");
const DOMAIN: &str = "example.com";
const EDGES: [&str; 2] = ["edge1.example.com", "edge2.example.com"];
const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3))];
const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions that are opened to see how they spread.
const CLIENTS: usize = 60;

/// A zone file with this machine's addresses and ports.
fn here(zone: &str, ports: &[u16; 3]) -> String {
    let port = |line: &str| {
        let which = ["edge1", "edge2", "spare", "relay"].iter().position(|name| line.ends_with(name));
        which.map_or(0, |which| ports[which % 3])
    };
    let line = |line: &str| {
        let at = line.replace("192.0.2.11", "127.0.0.2").replace("192.0.2.12", "127.0.0.3");
        let at = at
            .replace("192.0.2.13", "127.0.0.4")
            .replace("2001:db8::11", "::1")
            .replace("2001:db8::12", "::1");
        at.replace(" 2855 ", &format!(" {} ", port(line))) + "\n"
    };
    zone.lines().map(line).collect()
}

/// Two relays of one domain, and the name server that leads to them.
struct Farm {
    relays: [Option<Server>; 2],
    zone: Zone,
    place: TempDir,
}

impl Farm {
    /// `one_port`: both relays listen on the same port, each on its own address.
    fn start(zone: &str, one_port: bool) -> Self {
        testkit_net::relay::raise_descriptors();
        let place = tempfile::tempdir().unwrap();
        let mut trusted = String::new();
        for name in EDGES {
            let key = rcgen::KeyPair::generate().unwrap();
            let names = vec![name.to_owned(), "relay.example.com".to_owned()];
            let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            trusted.push_str(&certificate.pem());
            fs::write(place.path().join(format!("{name}.crt")), certificate.pem()).unwrap();
            fs::write(place.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        fs::write(place.path().join("ca"), trusted).unwrap();
        for user in ["alice", "bob"] {
            fs::write(place.path().join(user), format!("secret of {user}")).unwrap();
        }
        // The relays ask the name server, which must know their ports: so the ports are found first.
        let ports = loop {
            let held = ADDRESSES.map(|address| TcpListener::bind((address, 0)).unwrap());
            let ports = [0, 1].map(|at: usize| held[at].local_addr().unwrap().port());
            if !one_port {
                break ports;
            }
            // A port that is free on the one address is usually free on the other.
            drop(held);
            if ADDRESSES.iter().all(|address| TcpListener::bind((*address, ports[0])).is_ok()) {
                break [ports[0]; 2];
            }
        };
        let free = TcpListener::bind("127.0.0.4:0").unwrap().local_addr().unwrap().port();
        let zone = Zone::of_file(here(zone, &[ports[0], ports[1], free]));
        let relays = [0, 1].map(|at| Some(relay(place.path(), at, ports[at], zone.address)));
        Self { relays, zone, place }
    }

    fn located(&self) -> Located {
        locate(DOMAIN, Some(self.zone.address), PATIENCE).unwrap()
    }

    /// Sessions opened so far, by relay, once they are as many as that: the cores publish four times a second.
    fn sessions(&self, all: u64) -> [u64; 2] {
        let counted = || {
            [0, 1].map(|at| {
                let relay = self.relays[at].as_ref();
                relay.map_or(0, |relay| relay.counters().iter().map(|core| core.sessions_opened).sum())
            })
        };
        until("the sessions to be counted", || {
            Some(counted()).filter(|counted| counted.iter().sum::<u64>() >= all)
        })
    }

    /// Clients open sessions where the DNS leads them, each by its own dice. Returns how many had to try more than one
    /// address.
    fn crowd(&self) -> usize {
        let (located, trust) = (self.located(), Trust::File(self.place.path().join("ca")));
        run_on_executor(None, async {
            let mut detours = 0;
            let mut connected = Vec::new();
            for n in 0..CLIENTS {
                let mut state = n as u64 + 1;
                let draw = |below: u32| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    u32::try_from((state >> 33) % u64::from(below)).unwrap()
                };
                let mut tried = 0;
                let mut endpoint = None;
                for route in located.routes(draw) {
                    tried += 1;
                    let security = Security::tls(&trust, Some(&route.relay.host)).unwrap();
                    match Endpoint::connect(&route.target(), &security, PATIENCE).await {
                        Ok(up) => {
                            endpoint = Some(up);
                            break;
                        }
                        Err(ClientError::Connect { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                let mut endpoint = endpoint.expect("some relay is up");
                detours += usize::from(tried > 1);
                let credentials =
                    Credentials { user: "alice".to_owned(), password: "secret of alice".to_owned() };
                let options = AuthOptions {
                    uri: format!("msrps://{DOMAIN};tcp"),
                    expires: None,
                    digest_uri: false,
                    limit: PATIENCE,
                };
                authenticate(&mut endpoint, &credentials, &options).await.unwrap();
                connected.push(endpoint);
            }
            detours
        })
        .unwrap()
    }

    fn msrp(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msrp"));
        command.args(arguments).args(["--ca", "ca", "--dns", &self.zone.address.to_string()]);
        command.current_dir(self.place.path()).stdin(Stdio::null());
        command
    }

    /// Bob and alice find their relays by the domain alone, and a file goes from her to him.
    fn send_a_file(&self, seed: u64) {
        let inbox = self.place.path().join(format!("inbox{seed}"));
        fs::create_dir(&inbox).unwrap();
        let data = contents(seed, 1 << 20);
        fs::write(self.place.path().join("film"), &data).unwrap();
        let path = self.place.path().join(format!("path{seed}"));
        let mut receive = self.msrp(&["receive", "--user", "bob@example.com", "--password-file", "bob"]);
        let receive =
            receive.args(["--timeout", "60s"]).arg("--out").arg(&inbox).arg("--path-file").arg(&path);
        let mut receiver = Ended(receive.stdout(Stdio::null()).spawn().unwrap());
        let to = until("bob's path", || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
        let mut send =
            self.msrp(&["send", "film", "--user", "alice@example.com", "--password-file", "alice"]);
        let sent = send.args(["--to", to.trim()]).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        let status = until("bob to end", || receiver.0.try_wait().unwrap());
        assert!(status.success());
        assert_same(&fs::read(inbox.join("film")).unwrap(), &data);
    }
}

/// A client that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn relay(place: &Path, at: usize, port: u16, dns: SocketAddr) -> Server {
    let (name, address) = (EDGES[at], ADDRESSES[at]);
    let user = |user: &str| format!("{{user: \"{user}@example.com\", password: \"secret of {user}\"}}");
    let text = format!(
        "listen: [{{address: \"{address}:{port}\"}}]\nhostname: {name}\ncores: auto\n\
         tls: {{certificate: {name}.crt, key: {name}.key}}\nauth: {{memory: {{users: [{}, {}]}}}}\n\
         outbound: {{allow: [\"127.0.0.0/8\", \"::1/128\"], ca: ca}}\ndns: {{servers: [\"{dns}\"]}}\n",
        user("alice"),
        user("bob")
    );
    let origin = place.join("config.yaml");
    match Config::from_yaml(&text, origin.to_str().unwrap()) {
        Ok(config) => Server::start(config).unwrap(),
        Err(errors) => panic!("{errors}"),
    }
}

#[test]
fn several_srv_targets_share_the_clients_by_weight_and_stand_in_for_each_other() {
    bounded(|| {
        let mut farm = Farm::start(SEVERAL_TARGETS, false);
        let located = farm.located();
        let found = located.relays.iter().map(|relay| (relay.priority, relay.weight, &*relay.target.host));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [(10, 75, "edge1.example.com"), (10, 25, "edge2.example.com"), (20, 0, "spare.example.com")]
        );
        let families = |relay: usize| located.relays[relay].addresses.as_ref().unwrap().len();
        assert_eq!([0, 1, 2].map(families), [2, 2, 1], "both families where there are both");
        assert_eq!(farm.crowd(), 0, "no client has to try twice");
        let [large, small] = farm.sessions(CLIENTS as u64);
        assert_eq!(large + small, CLIENTS as u64);
        // By the weights, 45 and 15; the dice are the same each time.
        assert!((38..=52).contains(&large) && small >= 8, "{large} and {small}");
        farm.send_a_file(1);

        // The larger one ends.
        drop(farm.relays[0].take());
        assert!(farm.crowd() >= 38, "those who would have come to it come to the other one");
        assert_eq!(farm.sessions(small + CLIENTS as u64)[0], 0);
        farm.send_a_file(2);
    });
}

#[test]
fn one_name_with_several_addresses_shares_the_clients_and_each_relay_is_reached_by_its_own_name() {
    bounded(|| {
        let mut farm = Farm::start(ONE_NAME, true);
        let located = farm.located();
        assert_eq!(located.relays.len(), 1);
        assert_eq!(located.relays[0].target.host, "relay.example.com");
        assert_eq!(farm.crowd(), 0);
        let sessions = farm.sessions(CLIENTS as u64);
        assert!(sessions.iter().all(|count| (20..=40).contains(count)), "{sessions:?}");
        // Whichever relays they chose: her relay finds his by the name in its URI.
        for seed in 1..=4 {
            farm.send_a_file(seed);
        }
        drop(farm.relays[1].take());
        assert!(farm.crowd() >= 20);
        farm.send_a_file(5);
    });
}

#[test]
fn without_srv_the_domain_itself_stands_for_its_relay() {
    bounded(|| {
        let zone = here(ONE_NAME, &[0; 3]).replace("_msrps._tcp IN SRV", ";").replace("\nrelay ", "\n@ ");
        let zone = Zone::of_file(zone);
        let located = locate(DOMAIN, Some(zone.address), PATIENCE).unwrap();
        assert!(!located.srv);
        let routes = located.routes(|_| 0);
        assert_eq!(routes.len(), 3, "{routes:?}");
        assert!(routes.iter().all(|route| (&*route.relay.host, route.relay.port) == (DOMAIN, 2855)));
        let v4: Vec<_> = routes[..2].iter().map(|route| route.address).collect();
        assert!(ADDRESSES.iter().all(|address| v4.contains(address)), "{routes:?}");
        assert!(routes[2].address.is_ipv6());
    });
}

#[test]
fn a_name_server_that_says_nothing_costs_a_client_no_more_than_its_limit() {
    bounded(|| {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let located = locate(DOMAIN, Some(silent.local_addr().unwrap()), Duration::from_millis(200));
        assert!(matches!(located, Err(ClientError::Resolve { .. })), "{located:?}");
    });
}

// -- what the relay itself looks up ----------------------------------------------------------------

/// A relay that asks this name server, and waits for it this long.
fn asking(dns: SocketAddr, timeout: &str) -> TestRelay {
    let more = format!("dns: {{servers: [\"{dns}\"]}}\nlimits: {{resolve_timeout: {timeout}}}");
    TestRelay::with(&Setup { more: more.leak(), ..Setup::default() })
}

fn name_look_ups(relay: &TestRelay, end: LookUpEnd) -> u64 {
    relay.counted().resolves().ends[end as usize]
}

#[test]
fn a_next_hop_is_reached_by_its_name_whichever_family_it_is_of() {
    bounded(|| {
        let zone = "$ORIGIN example.com.\n$TTL 60\n@ IN SOA ns1 hostmaster ( 1 60 60 60 60 )\n\
                    four IN A 127.0.0.1\nsix IN AAAA ::1\n\
                    both IN A 127.0.0.5\nboth IN AAAA ::1\n";
        let zone = Zone::of_file(zone.to_owned());
        let relay = asking(zone.address, "60s");
        // Nothing listens on the IPv4 address of `both`.
        for (n, (name, address)) in
            [("four", "127.0.0.1:0"), ("six", "[::1]:0"), ("both", "[::1]:0")].iter().enumerate()
        {
            let listener = TcpListener::bind(address).unwrap();
            let uri = format!("msrp://{name}.example.com:{}/end;tcp", listener.local_addr().unwrap().port());
            let mut client = relay.client(&format!("user{n}"));
            let tid = client.say(&uri, name.as_bytes());
            let mut end = Foreign::accept_plain(&listener, &uri);
            assert_eq!(end.request("SEND").body, name.as_bytes());
            assert_eq!(client.status(&tid), 200);
        }
        until("the look-ups to be counted", || (name_look_ups(&relay, LookUpEnd::Found) == 3).then_some(()));
    });
}

#[test]
fn name_without_an_answer_in_time_is_a_next_hop_that_does_not_answer() {
    bounded(|| {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let relay = asking(silent.local_addr().unwrap(), "200ms");
        let mut client = relay.client("alice");
        let tid = client.say("msrp://peer.example.com:2855/end;tcp", b"Hello?");
        assert_eq!(client.status(&tid), 200);
        assert!(client.request("REPORT").required("Status").starts_with("000 408 "));
        until("the look-up to be counted", || (name_look_ups(&relay, LookUpEnd::Late) == 1).then_some(()));
        let reached = |(limit, times)| limit == Limit::ResolveTimeout && times == 1;
        until("the limit to be counted", || relay.counted().limits_reached().any(reached).then_some(()));
    });
}

// -- one user's next hops and another's -------------------------------------------------------------

/// Sessions of the one user: more than can be looked up at once and wait, all users together.
const CROWD: usize = 360;

/// A relay whose names come from `dns`, with further keys of `limits`.
fn sharing(dns: SocketAddr, limits: &str) -> TestRelay {
    let more = format!("dns: {{servers: [\"{dns}\"]}}\nlimits: {{dial_failures_per_user_max: 0, {limits}}}");
    let outbound = "{plain: allow, allow: [\"127.0.0.0/8\"], connect_timeout: 60s}";
    TestRelay::with(&Setup { more: more.leak(), outbound, ..Setup::default() })
}

#[test]
fn silent_name_servers_of_one_user_do_not_keep_another_from_a_next_hop() {
    bounded(|| {
        let names = HalfSilent::start();
        let relay = sharing(names.address, "resolve_timeout: 60s, lookups_waiting_max: 32");
        let mut crowd: Vec<_> = (0..CROWD).map(|_| relay.client("alice")).collect();
        for (n, client) in crowd.iter_mut().enumerate() {
            client.say(&format!("msrp://host{n}.silent.test:2855/end;tcp"), b"Hello?");
        }
        // Neither looked up nor waiting: the rest was refused.
        let refused = |asked: usize| {
            CROWD.checked_sub(asked + 32).is_some_and(|rest| rest > 0)
                && name_look_ups(&relay, LookUpEnd::Busy) >= (CROWD - asked - 32) as u64
        };
        until("the crowd to fill the queue", || Some(()).filter(|()| refused(names.names_asked())));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let uri = format!("msrp://host.quick.test:{}/end;tcp", listener.local_addr().unwrap().port());
        let mut bob = relay.client("bob");
        bob.say(&uri, b"Hello!");
        until("bob's next hop to be reached", || listener.accept().ok());
        assert!(names.names_asked() <= 17, "{} names of one user at once", names.names_asked() - 1);
    });
}

/// A listener whose kernel drops connection requests: its queue is full, and stays so.
fn deaf() -> (Socket, Vec<Socket>, u16) {
    let tcp = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = tcp();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    // One or two of them fit.
    loop {
        let socket = tcp();
        if socket.connect_timeout(&address, Duration::from_millis(300)).is_err() {
            return (listener, held, address.as_socket().unwrap().port());
        }
        held.push(socket);
        assert!(held.len() < 10, "a queue that is never full");
    }
}

#[test]
fn unanswered_connects_are_bounded_for_each_user_and_not_for_others() {
    bounded(|| {
        let relay = sharing("127.0.0.1:9".parse().unwrap(), "dials_per_user_max: 2");
        let (deaf, held, nowhere) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to =
            |user: &str| format!("msrp://127.0.0.1:{}/{user};tcp", listener.local_addr().unwrap().port());
        let mut alices: Vec<_> = (0..3).map(|_| relay.client("alice")).collect();
        for (n, alice) in alices[..2].iter_mut().enumerate() {
            alice.say(&format!("msrp://127.0.0.1:{nowhere}/end{n};tcp"), b"Hello?");
        }
        until("two dials", || (relay.counted().dials == 2).then_some(()));
        alices[2].say(&to("alice"), b"alice");
        until("the third dial", || (relay.counted().dials == 3).then_some(()));
        // Bob comes later and is there first.
        let mut bob = relay.client("bob");
        bob.say(&to("bob"), b"bob");
        assert_eq!(Foreign::accept_plain(&listener, &to("bob")).request("SEND").body, b"bob");
        // One that ends makes room for the next one.
        held.iter().for_each(|_| drop(deaf.accept().unwrap()));
        assert_eq!(Foreign::accept_plain(&listener, &to("alice")).request("SEND").body, b"alice");
    });
}
