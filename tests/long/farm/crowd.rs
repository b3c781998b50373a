//! All pairs: they log in, some are measured, all start, and at the end their results are judged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Orders;
use super::loss::{self, Notices};
use super::pair::{Pair, Side};
use super::relays::{Farm, RELAYS};
use crate::driver::content::Dice;
use crate::driver::party::spawn;
use crate::driver::stage::{Stage, add, read};
use crate::driver::verdict::Verdict;
use testkit_net::relay::{clients_of_each_version, self_signed_endpoint};

/// Pairs that log in at the same time.
const ARRIVING: usize = 16;
/// The least number of measured pairs for each length of path; a length with fewer is left out.
const MEASURED_MIN: usize = 8;
const MEASURED_MAX: usize = 32;
/// How long the idle relays are observed.
const IDLE: Duration = Duration::from_secs(2);
/// The longest path: two relays for each client.
const HOPS_MAX: usize = 4;
/// After the time is over, all pairs end within this: a pair that waits for a verdict has 50 s.
const RING_DOWN: Duration = Duration::from_secs(110);

/// What all pairs share.
pub(crate) struct Shared {
    pub(crate) stage: Arc<Stage>,
    /// Where the name server is.
    pub(crate) dns: SocketAddr,
    /// Held by the client that asks the name server.
    pub(crate) asking: Mutex<()>,
    /// The port of all relays.
    pub(crate) port: u16,
    /// The largest file.
    pub(crate) size: u64,
    /// How many of a hundred clients are behind two relays.
    pub(crate) behind_two: u64,
    dead: AtomicUsize,
    pub(crate) notices: Notices,
    /// Sessions that each relay has granted to clients behind another one.
    pub(crate) through: [AtomicU64; RELAYS],
    /// Log-ins that tried the dead relay first.
    pub(crate) detours: AtomicU64,
    /// Pairs of the dead relay that have logged in anew.
    pub(crate) moved: AtomicU64,
    /// Messages that the dead relay cut short, and how many of them were sent again.
    pub(crate) owed: AtomicU64,
    pub(crate) paid: AtomicU64,
}

impl Shared {
    /// The relay that was killed.
    pub(crate) fn dead(&self) -> Option<usize> {
        Some(self.dead.load(Ordering::SeqCst)).filter(|dead| *dead != usize::MAX)
    }

    /// From here on, its clients expect to lose it.
    pub(crate) fn mark_dead(&self, relay: usize) {
        self.dead.store(relay, Ordering::SeqCst);
    }
}

pub(crate) struct Crowd {
    pub(crate) shared: Arc<Shared>,
    /// Present until they start.
    pairs: Vec<Pair>,
    going: Vec<JoinHandle<()>>,
}

/// The cost of carrying some pairs' files.
pub(crate) struct Cost {
    pairs: usize,
    bytes: u64,
    cpu_seconds: f64,
}

impl Crowd {
    pub(crate) fn log_in(farm: &Farm, orders: &Orders) -> Self {
        let at = SocketAddr::new(super::relays::first_address(), farm.port);
        let trust = clients_of_each_version(&orders.place.join("ca.crt"));
        let shared = Arc::new(Shared {
            stage: Arc::new(Stage::new([at; 2], trust, self_signed_endpoint(), String::new())),
            dns: farm.zone.address,
            asking: Mutex::default(),
            port: farm.port,
            size: orders.size,
            behind_two: orders.behind_two,
            dead: AtomicUsize::new(usize::MAX),
            notices: Notices::default(),
            through: Default::default(),
            detours: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            paid: AtomicU64::new(0),
        });
        let (next, pairs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let arrive = || {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= orders.pairs {
                    return;
                }
                let dice = Dice::new(orders.seed ^ (number as u64) << 32);
                match Pair::meet(&shared, number, dice) {
                    Ok(pair) => pairs.lock().unwrap().push(pair),
                    Err(what) => shared.stage.tally.found(format!("pair {number} did not meet: {what}")),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..ARRIVING {
                scope.spawn(arrive);
            }
        });
        Self { shared, pairs: pairs.into_inner().unwrap(), going: Vec::new() }
    }

    /// CPU time per second of the idle relays.
    pub(crate) fn idle(farm: &Farm) -> f64 {
        let (began, before) = (Instant::now(), farm.cpu_seconds());
        std::thread::sleep(IDLE);
        (farm.cpu_seconds() - before) / began.elapsed().as_secs_f64()
    }

    /// Pairs with one relay between them send a file each, all at the same time, then as many pairs with two, and so
    /// on. The figures are of the relays' processes, without the clients' own work.
    pub(crate) fn measure(&mut self, farm: &Farm) -> Vec<(usize, Cost)> {
        let all = |hops: usize| self.pairs.iter().filter(|pair| pair.hops() == hops).count();
        let lengths: Vec<usize> = (1..=HOPS_MAX).filter(|hops| all(*hops) >= MEASURED_MIN).collect();
        let count = lengths.iter().map(|hops| all(*hops)).min().unwrap_or_default().min(MEASURED_MAX);
        let measure = |hops| {
            let shared = &self.shared;
            let before = (farm.cpu_seconds(), read(&shared.stage.tally.bytes_verified));
            let chosen = self.pairs.iter_mut().filter(|pair| pair.hops() == hops).take(count);
            std::thread::scope(|scope| {
                for pair in chosen {
                    scope.spawn(move || {
                        if let Err(what) = pair.transfer(shared, Side::Caller, shared.size) {
                            shared.stage.tally.found(format!("{}: {what}", pair.name()));
                        }
                    });
                }
            });
            let bytes = read(&shared.stage.tally.bytes_verified) - before.1;
            (hops, Cost { pairs: count, bytes, cpu_seconds: farm.cpu_seconds() - before.0 })
        };
        lengths.into_iter().map(measure).collect()
    }

    /// Sessions that outlive their clients: those behind another relay end at their Expires, not with a connection.
    pub(crate) fn outliving(&self) -> u64 {
        let living = (0..RELAYS).filter(|relay| Some(*relay) != self.shared.dead());
        living.map(|relay| read(&self.shared.through[relay])).sum()
    }

    pub(crate) fn touched_by(&self, relay: usize) -> u64 {
        self.pairs.iter().filter(|pair| pair.is_on(Some(relay))).count() as u64
    }

    /// Lets each pair play until the time is up.
    pub(crate) fn set_going(&mut self) {
        for pair in self.pairs.drain(..) {
            let shared = Arc::clone(&self.shared);
            self.going.push(spawn("pair", move || play(pair, &shared)).unwrap());
        }
    }

    /// How many have ended in time.
    pub(crate) fn wait_for_all(&mut self) -> usize {
        let deadline = Instant::now() + RING_DOWN;
        let mut ended = 0;
        for thread in self.going.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            if thread.is_finished() {
                match thread.join() {
                    Ok(()) => ended += 1,
                    Err(_) => self.shared.stage.tally.found("a pair panicked".to_owned()),
                }
            }
        }
        ended
    }

    pub(crate) fn judge(&self, verdict: &mut Verdict, touched: u64, ended: usize) {
        let Shared { stage, notices, .. } = &*self.shared;
        let tally = &stage.tally;
        let bytes = read(&tally.bytes_verified);
        let found = format!("{bytes} bytes, {} findings", tally.findings());
        verdict.judge(
            "no byte is wrong, no other session noticed",
            found,
            bytes > 0 && tally.findings() == 0,
        );
        let open = read(&tally.parties_open);
        verdict.judge("all came to their end", format!("{ended} pairs, {open} ends open"), open == 0);
        let found = format!(
            "of those under way {} answered, {} refused, {} reported, {} ended with their connection",
            read(&notices.answered),
            read(&notices.refused),
            read(&notices.reported),
            read(&notices.ended),
        );
        let seen = read(&notices.refused) + read(&notices.reported) + read(&notices.ended);
        verdict.judge("no SEND is without a verdict", found, seen > 0);
        let (connections, cut, later) =
            (read(&notices.connections), read(&notices.cut), read(&notices.told_later));
        let found = format!(
            "{connections} connections ended, {cut} chunks cut with #, {later} told when they wrote again"
        );
        verdict.judge("clients of the dead relay noticed", found, connections > 0 && later > 0);
        let (all, theirs) = (read(&tally.failure_reports), read(&notices.reports));
        let early = read(&notices.arrived_and_reported);
        let found = format!("{theirs} of {all} were for them, {early} on what had arrived");
        verdict.judge("no other client got a REPORT", found, all == theirs);
        let moved = read(&self.shared.moved);
        let found = format!(
            "{moved} of {touched} pairs logged in elsewhere, {} times after trying the dead one",
            read(&self.shared.detours)
        );
        verdict.judge("they came up elsewhere", found, moved == touched && touched > 0);
        let (owed, paid) = (read(&self.shared.owed), read(&self.shared.paid));
        verdict.judge(
            "and sent it all again",
            format!("{paid} of {owed} messages"),
            owed == paid && owed > 0,
        );
    }
}

/// Files and chat until the time is up, and whatever a dead relay makes necessary.
fn play(mut pair: Pair, shared: &Shared) {
    let over = |pair: &Pair| shared.stage.is_over() && pair.owed.is_empty() && !pair.is_on(shared.dead());
    while !over(&pair) {
        let Err(what) = pair.round(shared) else {
            continue;
        };
        let name = pair.name();
        let moved = match pair.is_on(shared.dead()) {
            true => loss::settle(&mut pair, shared).and_then(|()| pair.move_on(shared)),
            false => Err(what),
        };
        match moved {
            Ok(elsewhere) => {
                pair = elsewhere;
                add(&shared.moved, 1);
            }
            Err(what) => return shared.stage.tally.found(format!("{name}: {what}")),
        }
    }
    let name = pair.name();
    if let Err(what) = pair.finish() {
        shared.stage.tally.found(format!("{name} at the end: {what}"));
    }
}

impl Cost {
    fn per_gb(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.cpu_seconds * 1e9 / self.bytes as f64)
    }

    pub(crate) fn words(&self) -> String {
        self.per_gb().map_or_else(
            || "none, or nothing was sent".to_owned(),
            |per_gb| {
                let gb = self.bytes as f64 / 1e9;
                format!("{} pairs, {gb:.2} GB, {per_gb:.2} CPU seconds of the relays per GB", self.pairs)
            },
        )
    }
}
