//! What all scenes share: the relay, its users, the rate of bytes, the counts and the findings.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};

use testkit_net::account::{DOMAIN, Login};

/// Bytes a second that all senders together hand to the relay.
const BYTES_PER_SECOND: u64 = 48 << 20;
/// A sender that was held up may catch up on so much.
const BURST: Duration = Duration::from_millis(50);
/// Findings that are printed.
const FINDINGS_SHOWN: usize = 40;

pub(crate) struct Stage {
    pub(crate) tls: SocketAddr,
    pub(crate) plain: SocketAddr,
    /// For TLS 1.3 and 1.2.
    pub(crate) clients: [Arc<ClientConfig>; 2],
    /// For endpoints that are dialled.
    pub(crate) endpoint: Arc<ServerConfig>,
    pub(crate) password: String,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
    over: AtomicBool,
}

/// What was counted.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) bytes_verified: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) parties_open: AtomicU64,
    pub(crate) sessions: AtomicU64,
    /// URIs that took the place of another in the same session.
    pub(crate) replaced: AtomicU64,
    pub(crate) auths: AtomicU64,
    pub(crate) auths_refused: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) chat_messages: AtomicU64,
    pub(crate) chunks: AtomicU64,
    pub(crate) failure_reports: AtomicU64,
    pub(crate) success_reports: AtomicU64,
    pub(crate) kills: AtomicU64,
    pub(crate) dials: AtomicU64,
    /// How often each was played, and how long the longest took.
    scenes: Mutex<BTreeMap<&'static str, (u64, Duration)>>,
    findings: Mutex<Vec<String>>,
    findings_all: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Stage {
    pub(crate) fn new(
        addresses: [SocketAddr; 2],
        clients: [Arc<ClientConfig>; 2],
        endpoint: Arc<ServerConfig>,
        password: String,
    ) -> Self {
        let [tls, plain] = addresses;
        let (pace, tally) = (Pace::default(), Tally::default());
        Self { tls, plain, clients, endpoint, password, pace, tally, over: AtomicBool::new(false) }
    }

    /// No more scenes begin, and long ones end.
    pub(crate) fn ring_down(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// To-Path of an AUTH without a session.
    pub(crate) fn auth_uri(&self) -> String {
        format!("msrps://{DOMAIN}:{};tcp", self.tls.port())
    }

    pub(crate) fn login<'a>(user: &'a str, password: &'a str, to: &'a str) -> Login<'a> {
        Login::new(user, password, to)
    }
}

impl Tally {
    pub(crate) fn scene(&self, name: &'static str, took: Duration) {
        if let Ok(mut scenes) = self.scenes.lock() {
            let (count, longest) = scenes.entry(name).or_default();
            *count += 1;
            *longest = took.max(*longest);
        }
    }

    /// Scenes by name, how often each was played, how long the longest took.
    pub(crate) fn scenes(&self) -> Vec<(&'static str, u64, Duration)> {
        let scenes = self.scenes.lock();
        scenes.map(|scenes| scenes.iter().map(|(name, (n, t))| (*name, *n, *t)).collect()).unwrap_or_default()
    }

    /// Notes something that must not happen.
    pub(crate) fn found(&self, what: String) {
        add(&self.findings_all, 1);
        if let Ok(mut findings) = self.findings.lock()
            && findings.len() < FINDINGS_SHOWN
        {
            println!("FOUND: {what}");
            findings.push(what);
        }
    }

    pub(crate) fn findings(&self) -> u64 {
        read(&self.findings_all)
    }
}

/// One clock for all senders, so that the machine keeps some spare time.
#[derive(Default)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits until so many bytes may be sent.
    pub(crate) fn take(&self, bytes: u64) {
        let now = Instant::now();
        let turn = {
            let Ok(mut next) = self.0.lock() else {
                return;
            };
            let turn = next.map_or(now, |next| next.max(now - BURST));
            *next = Some(turn + Duration::from_nanos(bytes * 1_000_000_000 / BYTES_PER_SECOND));
            turn
        };
        std::thread::sleep(turn.saturating_duration_since(now));
    }
}

/// One of this machine's own addresses: `127.block.x.y`.
pub(crate) fn own_address(block: u8, number: u64) -> Ipv4Addr {
    let number = u16::try_from(number % 65_000).unwrap_or_default() + 1;
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, block, high, low)
}
