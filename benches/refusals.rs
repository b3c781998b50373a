//! How long a refusal takes: for a remembered account, for another one, and for none. The times must not tell which.
//!
//! `cargo bench --bench refusals [-- ROUNDS]`: a relay in this process with a SQLite file of two accounts, without and
//! with `auth.cache`. Each kind of guess is made once in every round, first, second and third in turn. Prints medians,
//! and how far the medians of ten parts of the run lie apart: a smaller difference between kinds means nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up cannot be measured")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use msrp_proto::digest::{Challenge, Ha1, NonceUse};
use msrprelay::config::Config;
use msrprelay::control::{User, UserFile};
use msrprelay::runtime::server::Server;

const REALM: &str = "example.com";
const PASSWORD: &str = "wonderland";
const KINDS: [&str; 3] = ["remembered", "known", "absent"];
const ROUNDS: usize = 3000;
/// The parts of a run whose medians are compared.
const PARTS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    // Cargo adds `--bench`.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let rounds = usize::max(rounds, PARTS);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("accounts.db");
    let file = UserFile::open_or_make(&path).unwrap();
    for name in ["remembered", "known"] {
        file.add(&User { name: name.to_owned(), realm: REALM.to_owned() }, PASSWORD).unwrap();
    }
    println!("Time from an AUTH with a wrong password to its 401, {rounds} rounds:");
    for cache in ["off", "1h"] {
        let cpu = core_affinity::get_core_ids().unwrap()[0].id;
        // Every failure counts.
        let config = format!(
            "listen: [{{address: '127.0.0.1:0', tls: false}}]\nhostname: relay.example.test\ncores: [{cpu}]\n\
             auth: {{insecure_plain: true, backend: sqlite, sqlite: {{path: '{}'}}, cache: {cache}}}\n\
             limits: {{auth_failures_per_address_max: 0, auth_failures_per_user_max: 0}}\n",
            path.display()
        );
        let config = Config::from_yaml(&config, "refusals.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        let server = Server::start(config).unwrap();
        measure(cache, server.addresses()[0].0, rounds);
    }
}

fn measure(cache: &str, relay: SocketAddr, rounds: usize) {
    assert_eq!(attempt(relay, "remembered", PASSWORD).0, 200);
    let mut times = KINDS.map(|_| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for turn in 0..KINDS.len() {
            let kind = (round + turn) % KINDS.len();
            let (status, took) = attempt(relay, KINDS[kind], "a guess");
            assert_eq!(status, 401);
            times[kind].push(took);
        }
    }
    for (name, times) in KINDS.iter().zip(&times) {
        let parts: Vec<_> = times.chunks(rounds / PARTS).take(PARTS).map(median).collect();
        let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
        println!(
            "cache {cache:3}  {name:10}  median {:.1?}  (of parts: {least:.1?} to {most:.1?})",
            median(times)
        );
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

/// The answer to an AUTH with this password, on a connection of its own, and how long it took.
fn attempt(relay: SocketAddr, user: &str, password: &str) -> (u16, Duration) {
    let mut stream = TcpStream::connect(relay).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = format!("msrp://{REALM}:{};tcp", relay.port());
    let challenged = answer(&mut stream, &to, "chal1enge", "");
    let value = challenged.lines().find_map(|line| line.strip_prefix("WWW-Authenticate: ")).unwrap();
    let challenge = Challenge::parse(value.as_bytes()).unwrap();
    let ha1 = Ha1::new(challenge.algorithm, user, &challenge.realm, password);
    let authorization =
        challenge.answer(user, &ha1, to.as_bytes(), NonceUse { nc: 1, cnonce: "0123456789abcdef" });
    let authorization = format!("Authorization: {authorization}\r\n");
    let asked = Instant::now();
    let answered = answer(&mut stream, &to, "answer99", &authorization);
    let took = asked.elapsed();
    let status = answered.split(' ').nth(2).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answered}")), took)
}

/// Sends an AUTH and waits for its response.
fn answer(stream: &mut TcpStream, to: &str, id: &str, headers: &str) -> String {
    let from = "msrp://client.invalid:2855/refusals;tcp";
    let request =
        format!("MSRP {id} AUTH\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{headers}-------{id}$\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let (mut text, end) = (Vec::new(), format!("-------{id}$\r\n"));
    let mut buffer = [0; 4096];
    while !text.ends_with(end.as_bytes()) {
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}
