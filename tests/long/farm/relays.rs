//! The operator's setup: four relays with certificates of one authority, a zone with one SRV name for them, a MariaDB
//! with all accounts. And the operator's view of the relays from outside.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::Orders;
use crate::driver::verdict::{self, Verdict};
use crate::soak::STOP;
use testkit_net::authority::{Authority, write_secret};
use testkit_net::mariadb::MariaDb;
use testkit_net::process::Process;
use testkit_net::relay::record_layer;
use testkit_net::scrape::Page;
use testkit_net::sql::SqlServer as _;
use testkit_net::subscribers::{Database, Proxy};
use testkit_net::zone::Zone;
use testkit_net::{PATIENCE, until};

/// How many there are.
pub(crate) const RELAYS: usize = 4;
/// The SIP domain that they serve.
pub(crate) const DOMAIN: &str = "example.com";
/// The port of RFC 4976, 8, if it is free.
const PORT: u16 = 2855;

pub(crate) struct Farm {
    relays: Vec<Process>,
    metrics: Vec<SocketAddr>,
    pub(crate) port: u16,
    pub(crate) zone: Zone,
    accounts: MariaDb,
    /// CPU time of those that have gone.
    spent: f64,
}

/// Sessions of each core of each relay.
pub(crate) struct Spread {
    pub(crate) sessions: Vec<Vec<u64>>,
}

impl Farm {
    pub(crate) fn build(orders: &Orders) -> Self {
        let authority = Authority::new("The farm's own");
        fs::write(orders.place.join("ca.crt"), authority.pem()).unwrap();
        let accounts = MariaDb::start();
        let database = Database::new(&accounts, Proxy::OpenSips);
        // The clients' users, and one more as there is no user0.
        database.add_many(2 * orders.pairs + 1);
        let keys = database.keys_as_they_are("");
        let port = free_port();
        let zone = Zone::of_file(zone_file(port));
        let mut relays = Vec::new();
        for at in 0..RELAYS {
            let place = orders.place.join(host(at));
            fs::create_dir(&place).unwrap();
            authority.certify_for(&[&host(at)], place.join("relay.crt"), place.join("relay.key"));
            let config = config(at, port, zone.address, &orders.cores, &keys);
            write_secret(place.join("config.yaml"), &config);
            relays.push(Process::start(&orders.relay, &place));
        }
        let metrics = relays.iter().map(|relay| relay.addresses[1]).collect();
        Self { relays, metrics, port, zone, accounts, spent: 0.0 }
    }

    pub(crate) fn name(&self, at: usize) -> String {
        format!("{} (process {})", host(at), self.relays[at].pid())
    }

    /// What database this is, in words.
    pub(crate) fn accounts(&self) -> String {
        format!("MariaDB {}", self.accounts.run_in(None, "SELECT VERSION()").trim())
    }

    /// Sessions by relay and core, once they are as many as that: cores publish four times a second.
    pub(crate) fn spread(&self, all: u64) -> Spread {
        let look = || {
            let sessions = self.metrics.iter().map(|metrics| sessions(*metrics)).collect();
            let spread = Spread { sessions };
            (spread.all() == all).then_some(spread)
        };
        until("the relays to count all sessions", look)
    }

    /// CPU time of all of them.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.spent + self.relays.iter().map(Process::cpu_seconds).sum::<f64>()
    }

    /// Each one's memory, in words.
    pub(crate) fn memory(&self) -> String {
        let each = self.relays.iter().map(|relay| format!("{:.1}", relay.rss_kib() as f64 / 1024.0));
        format!("{} MiB", each.collect::<Vec<_>>().join(", "))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        self.spent += self.relays[at].cpu_seconds();
        self.relays[at].kill();
    }

    /// Judges the other relays: no sessions once all clients have left, except those that `outlive` their clients; an
    /// orderly end, and nothing bad in the log.
    pub(crate) fn judge(&mut self, verdict: &mut Verdict, dead: usize, outlive: u64) {
        let living: Vec<usize> = (0..RELAYS).filter(|at| *at != dead).collect();
        let running = living.iter().filter(|at| self.relays[**at].ended().is_none()).count();
        verdict.judge("the others run on", format!("{running} of {}", RELAYS - 1), running == RELAYS - 1);
        if running < RELAYS - 1 {
            return;
        }
        let left = || living.iter().map(|at| sessions(self.metrics[*at]).iter().sum::<u64>()).sum::<u64>();
        let deadline = Instant::now() + PATIENCE;
        while left() != outlive && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let found = format!("{}, {outlive} of them behind other relays, whose time is not over", left());
        verdict.judge("no other sessions are left", found, left() == outlive);
        let (mut clean, mut loud, mut words) = (0, 0, Vec::new());
        for at in living {
            let end = self.relays[at].stop(STOP);
            clean += usize::from(end.as_ref().is_ok_and(|(status, _)| status.success()));
            words.push(end.map_or_else(|what| what, |(status, _)| status.to_string()));
            let log = self.relays[at].log();
            let (bad, _) = verdict::bad_lines(&log);
            bad.iter().take(10).for_each(|line| println!("LOG of {}: {line}", host(at)));
            loud += bad.len();
        }
        verdict.judge("SIGTERM ends them in order", words.join(", "), clean == RELAYS - 1);
        verdict.judge("their logs hold no warning", format!("{loud} loud lines"), loud == 0);
    }
}

impl Spread {
    pub(crate) fn all(&self) -> u64 {
        self.sessions.iter().flatten().sum()
    }

    /// The relay with the most sessions.
    pub(crate) fn busiest(&self) -> usize {
        let all = |at: &usize| self.sessions[*at].iter().sum::<u64>();
        (0..RELAYS).max_by_key(all).unwrap_or_default()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(at, cores): (usize, &Vec<u64>)| {
            let each = cores.iter().zip(0..).map(|(sessions, core)| format!("{sessions:4} on core {core}"));
            format!(
                "{}: {:4} sessions, {}",
                host(at),
                cores.iter().sum::<u64>(),
                each.collect::<Vec<_>>().join(", ")
            )
        };
        (0..).zip(&self.sessions).map(line).collect()
    }

    pub(crate) fn summary(&self) -> String {
        let each = self.sessions.iter().map(|cores| {
            let cores: Vec<_> = cores.iter().map(u64::to_string).collect();
            cores.join("+")
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

fn sessions(metrics: SocketAddr) -> Vec<u64> {
    let page = Page::of(metrics);
    let mut cores: Vec<_> = page
        .samples()
        .filter(|(name, ..)| name == "msrprelay_sessions")
        .map(|(_, labels, value)| (labels["core"].parse::<u64>().unwrap(), *value as u64))
        .collect();
    cores.sort_unstable();
    cores.into_iter().map(|(_, sessions)| sessions).collect()
}

/// The name of a relay.
pub(crate) fn host(at: usize) -> String {
    format!("edge{}.{DOMAIN}", at + 1)
}

/// Each relay has an address of its own.
fn address(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, at as u8 + 2)
}

/// Where the first one is.
pub(crate) fn first_address() -> IpAddr {
    IpAddr::V4(address(0))
}

/// Which relay has this address.
pub(crate) fn relay_at(address: IpAddr) -> Option<usize> {
    (0..RELAYS).find(|at| IpAddr::V4(self::address(*at)) == address)
}

/// A port that is free on all their addresses. Another process may take it before they do.
fn free_port() -> u16 {
    let is_free = |port: u16| (0..RELAYS).all(|at| TcpListener::bind((address(at), port)).is_ok());
    let chosen = || TcpListener::bind((address(0), 0)).ok()?.local_addr().ok().map(|at| at.port());
    let ports = std::iter::once(PORT).chain(std::iter::from_fn(chosen).take(100));
    ports.into_iter().find(|port| is_free(*port)).expect("one of a hundred ports is free on four addresses")
}

fn zone_file(port: u16) -> String {
    let head = format!("$ORIGIN {DOMAIN}.\n$TTL 60\n@ IN SOA ns1 hostmaster ( 1 60 60 60 60 )\n");
    let records = (0..RELAYS).map(|at| {
        let (name, address) = (at + 1, address(at));
        format!("_msrps._tcp IN SRV 10 25 {port} edge{name}\nedge{name} IN A {address}\n")
    });
    head + &records.collect::<String>()
}

fn config(at: usize, port: u16, dns: SocketAddr, cores: &str, accounts: &str) -> String {
    let (address, host, layer) = (address(at), host(at), record_layer());
    format!(
        "listen: [{{address: \"{address}:{port}\"}}]\nhostname: {host}\nrealm: {DOMAIN}\n\
         tls: {{certificate: relay.crt, key: relay.key, client_ca: ../ca.crt, unproven_relays: refuse,\n  \
         record_layer: {layer}}}\ncores: {cores}\nauth: {{{accounts}}}\n\
         outbound: {{ca: ../ca.crt, relays: [\"*.{DOMAIN}\"], allow: [\"127.0.0.0/8\"]}}\ndns: {{servers: [\"{dns}\"]}}\n\
         metrics: {{address: \"{address}:0\"}}\n\
         # The three other relays come from one and the same address here.\n\
         limits: {{connections_max: 4096, connections_per_address_max: 4096, unauthenticated_per_address_max: 4096}}\n"
    )
}
