//! Next hops that the relay must not connect to, whichever client asks.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::attack::{Attack, CONNECTION_KIB_MAX, two_cores};
use testkit_net::bounded;
use testkit_net::endpoint::Endpoint;
use testkit_net::relay::Setup;

/// A client asks for a next hop. Returns the words of the failure.
fn ask(attack: &Attack, user: usize, hop: &str) -> String {
    let mut culprit = attack.relay.client(&format!("user{user}"));
    let tid = culprit.say(hop, b"Open up");
    let answer = culprit.response(&tid);
    // The chunk may have been answered before the look-up of a name was over.
    let told = match answer.status() {
        Some(200) => culprit.request("REPORT").required("Status"),
        _ => format!("000 {}", answer.head_text().lines().next().unwrap().splitn(3, ' ').nth(2).unwrap()),
    };
    // The client is not punished for a forbidden next hop: it is as free as before.
    let tid = culprit.say(&attack.absent_session(), b"Anybody?");
    assert_eq!(culprit.status(&tid), 481);
    told
}

/// Nothing has connected.
fn untouched(listener: &TcpListener, hop: &str) {
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok((_, from)) => panic!("{hop}: a connection from {from}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{hop}"),
    }
}

/// Addresses that lead back to this host, in every spelling, and others that a host may listen on.
const OWN: [&str; 14] = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:0:7f00:1]",
    "[64:ff9b::7f00:1]",
];

/// Other addresses that are not public.
const INTERNAL: [&str; 12] = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "[fe80::1]",
    "[fc00::1]",
    "[ff02::1]",
    "[::ffff:10.0.0.1]",
];

#[test]
fn forbidden_next_hops_are_not_tried_and_told_of_like_any_other_that_cannot_be_reached() {
    bounded(|| {
        let setup = Setup {
            outbound: "{plain: allow}",
            // A host that no name server is asked for gets its answer soon.
            ..two_cores("limits: {resolve_timeout: 1s}")
        };
        let attack = Attack::with(&setup, 8 * CONNECTION_KIB_MAX);
        let v4 = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        // Not every host has IPv6; if this one does, this listener takes only unmapped connections.
        let v6 = TcpListener::bind(("::1", port)).ok();
        let mut told = Vec::new();
        for (n, host) in OWN.into_iter().chain(INTERNAL).enumerate() {
            let scheme = if n % 2 == 0 { "msrps" } else { "msrp" };
            let hop = format!("{scheme}://{host}:{port}/x;tcp");
            told.push((ask(&attack, n, &hop), hop.clone()));
            untouched(&v4, &hop);
            v6.iter().for_each(|v6| untouched(v6, &hop));
        }
        // Not forbidden, but not there.
        told.push((ask(&attack, 100, "msrps://nowhere.invalid:2855/x;tcp"), "nowhere".to_owned()));
        for (words, hop) in &told {
            assert!(words.starts_with("000 408"), "{hop}: {words}");
            assert_eq!(*words, told[0].0, "{hop}");
        }
        let log = attack.end();
        // Only the operator learns which it was.
        for host in INTERNAL.iter().filter(|host| !host.contains("ffff")) {
            let why = format!("egress policy forbids {}", host.trim_matches(['[', ']']));
            assert!(log.contains(&why), "{why}: {log}");
        }
    });
}

/// Private ranges may be allowed, but the relay's own listeners are still no next hop (req S3), whether they listen on
/// one address or on all.
#[test]
fn the_relay_does_not_dial_itself_where_its_own_address_is_allowed() {
    bounded(|| {
        let listen =
            &[("127.0.0.1:0", true), ("127.0.0.1:0", false), ("0.0.0.0:0", true), ("0.0.0.0:0", false)];
        let attack = Attack::with(&Setup { listen, ..two_cores("") }, 8 * CONNECTION_KIB_MAX);
        let ports = attack.relay.addresses.iter().map(SocketAddr::port);
        let hops = ports.zip(["msrps", "msrp"].repeat(2));
        let hops = hops.map(|(port, scheme)| format!("{scheme}://127.0.0.1:{port}/x;tcp"));
        let told: Vec<String> = hops.enumerate().map(|(n, hop)| ask(&attack, n, &hop)).collect();
        assert!(told.iter().all(|words| words.starts_with("000 408")), "{told:?}");
        // It would also have ended so if the relay had closed a connection from itself.
        let log = attack.end();
        assert_eq!(log.matches("is this relay's own").count(), told.len(), "{log}");
    });
}

/// The same for every other spelling of a listening address, in a URI or in the config. The operator allows networks,
/// however wide, and does not mean the relay itself.
#[test]
fn the_relay_does_not_dial_itself_however_its_address_is_spelled() {
    const SPELLINGS: [&str; 10] = [
        "127.0.0.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "localhost",
        "LocalHost.",
        "0.0.0.0",
        "[::ffff:0.0.0.0]",
        "[::]",
    ];
    bounded(|| {
        // A range of IPv4-mapped addresses is the IPv4 range.
        let outbound = "{plain: allow, allow: [\"::ffff:0.0.0.0/96\", \"0.0.0.0/0\", \"::/0\"]}";
        let listen = &[("127.0.0.1:0", true), ("127.0.0.1:0", false), ("0.0.0.0:0", true), ("[::]:0", false)];
        let setup = Setup { listen, outbound, ..two_cores("limits: {resolve_timeout: 1s}") };
        let attack = Attack::with(&setup, 8 * CONNECTION_KIB_MAX);
        let mut hops = Vec::new();
        for (address, (_, secure)) in attack.relay.addresses.iter().zip(listen) {
            let scheme = if *secure { "msrps" } else { "msrp" };
            let hop = |host| format!("{scheme}://{host}:{}/x;tcp", address.port());
            hops.extend(SPELLINGS.map(hop));
        }
        for (n, hop) in hops.iter().enumerate() {
            let told = ask(&attack, n, hop);
            assert!(told.starts_with("000 408"), "{hop}: {told}");
        }
        // Two hosts may share a place among the sources of lines, so that some lines are left out. The next line of any
        // other host says how many.
        let further: Vec<String> = (0..3).map(|n| format!("msrp://none{n}.invalid:2855/x;tcp")).collect();
        for (n, hop) in further.iter().enumerate() {
            ask(&attack, hops.len() + n, hop);
        }
        // A listener on one address leaves others free, where nothing listens.
        let why = ["is this relay's own", "egress policy forbids", "no address", "not a name", "refused"];
        let log = attack.end();
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("Cannot connect")).collect();
        for line in &refused {
            assert!(why.iter().any(|why| line.contains(why)), "{line}");
        }
        let left_out = |line: &&str| {
            line.split("suppressed=").nth(1).and_then(|count| count.trim().parse::<usize>().ok())
        };
        let left_out: usize = refused.iter().filter_map(left_out).sum();
        assert_eq!(refused.len() + left_out, hops.len() + further.len(), "{log}");
    });
}

/// A relay that can be sent in circles multiplies what it is sent.
#[test]
fn a_path_through_the_relay_many_times_makes_no_more_than_two_hops() {
    bounded(|| {
        let attack = Attack::start(8 * CONNECTION_KIB_MAX);
        let mut clients: Vec<Endpoint> =
            (0..6).map(|n| attack.client_on(n % 2, &format!("user{n}"))).collect();
        let sessions: Vec<String> = clients.iter().map(|c| c.relay.clone().unwrap()).collect();
        let (culprit, others) = clients.split_first_mut().unwrap();
        let path = format!("{} {}", sessions[1..].join(" "), others[4].uri);
        let tid = culprit.say(&path, b"Round and round");
        let status = culprit.status(&tid);
        if status == 200 {
            assert!(culprit.request("REPORT").required("Status").starts_with("000 481"));
        } else {
            assert_eq!(status, 481);
        }
        for other in others {
            let tid = other.say(&attack.absent_session(), b"Nothing came");
            assert_eq!(other.status(&tid), 481);
        }
        drop(clients);
        attack.end();
    });
}
