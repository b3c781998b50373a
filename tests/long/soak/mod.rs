//! The soak: a steady mix against the real binary for minutes, every byte verified, and nothing left behind.
//!
//! `scripts/soak.sh` builds both, makes certificate and config, and runs its one ignored test; the orders come in the
//! environment. The mix is in [`mix`], its scenes in [`talk`], [`kills`] and [`churn`]; an end of a session is a
//! [`party`], its conclusions are in its [`ledger`], and the [`verdict`] is a table.
mod churn;
mod door;
mod kills;
mod mix;
mod talk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::driver::stage::{Stage, read};
use crate::driver::verdict::{self, Verdict, Windows};
use testkit_net::process::Process;

/// Scenes that have begun when the time is up end within this.
const RING_DOWN: Duration = Duration::from_secs(150);
/// A relay without connections is back to its descriptors within this.
const COOL_DOWN: Duration = Duration::from_secs(60);

/// Stopping takes no longer.
pub(crate) const STOP: Duration = Duration::from_secs(30);

/// The script's orders.
struct Orders {
    relay: PathBuf,
    place: PathBuf,
    password: String,
    seconds: usize,
    seed: u64,
}

impl Orders {
    fn from_env() -> Self {
        let var = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/soak.sh"))
        };
        let minutes: usize = var("SOAK_MINUTES").parse().unwrap();
        Self {
            relay: var("SOAK_RELAY").into(),
            place: var("SOAK_PLACE").into(),
            password: var("SOAK_PASSWORD"),
            seconds: minutes * 60,
            seed: var("SOAK_SEED").parse().unwrap(),
        }
    }
}

#[test]
#[ignore = "takes minutes: scripts/soak.sh runs it"]
fn a_steady_mix_loses_no_byte_and_leaves_nothing_behind() {
    let orders = Orders::from_env();
    testkit_net::relay::raise_descriptors();
    let mut relay = Process::start(&orders.relay, &orders.place);
    let stage = Arc::new(set_up(&orders, &relay));
    let mut verdict = Verdict::default();
    let descriptors = relay.descriptors();
    println!(
        "The relay has pid {}, {descriptors} descriptors and {} KiB; seed {}",
        relay.pid(),
        relay.rss_kib(),
        orders.seed
    );
    let began = Instant::now();
    let threads = mix::start(&stage, orders.seed).unwrap();
    let samples = watch_load(&stage, &mut relay, began, orders.seconds);
    stage.ring_down();
    let quiet = wait_for_scenes(&stage, threads);
    let elapsed = began.elapsed();
    println!("All scenes have ended after {:.0} s", elapsed.as_secs_f64());
    let left = cool_down(&relay, descriptors);

    std::fs::write(orders.place.join("smaps.txt"), relay.mappings()).unwrap();
    judge_bytes(&mut verdict, &stage, quiet);
    judge_memory(&mut verdict, &samples, &orders, relay.rss_kib());
    let found = format!("{descriptors} before, {left} after");
    verdict.judge("descriptors are back to the start", found, left == descriptors);
    let cpu = relay.cpu_seconds();
    judge_end(&mut verdict, &mut relay, &stage);
    note_work(&mut verdict, &stage, cpu, elapsed);
    verdict.print();
    assert!(verdict.is_good(), "the soak has failed");
}

fn set_up(orders: &Orders, relay: &Process) -> Stage {
    let clients = testkit_net::relay::clients_of_each_version(&orders.place.join("localhost.crt"));
    let endpoint = testkit_net::relay::self_signed_endpoint();
    let addresses = [relay.addresses[0], relay.addresses[1]];
    Stage::new(addresses, clients, endpoint, orders.password.clone())
}

/// Samples memory once a second and reports the progress every ten seconds.
fn watch_load(stage: &Stage, relay: &mut Process, began: Instant, seconds: usize) -> Vec<u64> {
    let mut samples = Vec::with_capacity(seconds);
    for second in 1..=seconds {
        let next = began + Duration::from_secs(second as u64);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        samples.push(relay.rss_kib());
        if second % 10 == 0 {
            progress(stage, relay, second);
        }
        if relay.ended().is_some() {
            stage.tally.found(format!("the relay has gone:\n{}", tail(&relay.log())));
            break;
        }
    }
    samples
}

fn progress(stage: &Stage, relay: &Process, second: usize) {
    let tally = &stage.tally;
    println!(
        "{second:5} s  {:3} open  {:6} sessions  {:5} files  {:7} chat  {:5.2} GB  {:5} REPORTs  {:4} kills  \
         RSS {:6} KiB  {:4} fds  CPU {:6.1} s  {} found",
        read(&tally.parties_open),
        read(&tally.sessions),
        read(&tally.files),
        read(&tally.chat_messages),
        read(&tally.bytes_verified) as f64 / 1e9,
        read(&tally.failure_reports) + read(&tally.success_reports),
        read(&tally.kills),
        relay.rss_kib(),
        relay.descriptors(),
        relay.cpu_seconds(),
        tally.findings(),
    );
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Whether all have ended in time.
fn wait_for_scenes(stage: &Stage, threads: Vec<std::thread::JoinHandle<()>>) -> bool {
    let deadline = Instant::now() + RING_DOWN;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !thread.is_finished() {
            return false;
        }
        if thread.join().is_err() {
            stage.tally.found("a scene panicked".to_owned());
        }
    }
    true
}

/// Waits until the relay holds no more than at the start; returns what it holds.
fn cool_down(relay: &Process, descriptors: usize) -> usize {
    let deadline = Instant::now() + COOL_DOWN;
    while relay.descriptors() != descriptors && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    relay.descriptors()
}

fn judge_bytes(verdict: &mut Verdict, stage: &Stage, quiet: bool) {
    let tally = &stage.tally;
    let bytes = read(&tally.bytes_verified);
    let found =
        format!("{bytes} verified of {} sent, {} findings", read(&tally.bytes_sent), tally.findings());
    verdict.judge("every byte is accounted for", found, bytes > 0 && tally.findings() == 0);
    let open = tally.parties_open.load(Ordering::SeqCst);
    verdict.judge("every scene came to its end", format!("{open} ends still open"), quiet && open == 0);
}

fn judge_memory(verdict: &mut Verdict, samples: &[u64], orders: &Orders, at_rest: u64) {
    let (seconds, place) = (orders.seconds, &orders.place);
    for (minute, spread) in verdict::minutes(samples).iter().enumerate() {
        println!(
            "RSS, minute {:2}: {:6} to {:6} KiB, median {:6}",
            minute + 1,
            spread.min,
            spread.max,
            spread.median
        );
    }
    let lines: String = samples.iter().map(|kib| format!("{kib}\n")).collect();
    std::fs::write(place.join("rss.txt"), lines).unwrap();
    let windows = Windows::of(seconds);
    let drift = windows.drift(samples);
    let (early, late) = (windows.early, windows.late);
    let found = format!(
        "{:+.1} % from {} to {} s, to {} to {} s; {at_rest} KiB at rest{}",
        drift.unwrap_or(f64::NAN),
        early.0,
        early.1,
        late.0,
        late.1,
        if seconds < verdict::LONG {
            "; a short run, which has little time to warm up: 25 % are let pass"
        } else {
            ""
        },
    );
    let flat = drift.is_some_and(|drift| drift.abs() <= windows.drift_percent_max);
    verdict.judge("memory is flat", found, flat);
}

fn judge_end(verdict: &mut Verdict, relay: &mut Process, stage: &Stage) {
    match relay.stop(STOP) {
        Ok((status, time)) => {
            let found = format!("{status} after {:.1} s", time.as_secs_f64());
            verdict.judge("SIGTERM ends it in order", found, status.success());
        }
        Err(what) => verdict.judge("SIGTERM ends it in order", what, false),
    }
    let log = relay.log();
    let (bad, expected) = verdict::bad_lines(&log);
    for line in bad.iter().take(20) {
        println!("LOG: {line}");
    }
    let found = format!(
        "{} lines, {} of them loud, {expected} on purpose",
        log.lines().count(),
        bad.len() + expected
    );
    verdict.judge("the log holds no unexpected error", found, bad.is_empty());
    let tally = &stage.tally;
    let (sessions, bytes) = (verdict::counted(&log, "sessions="), verdict::counted(&log, "bytes="));
    // A URI that replaces another one is of the same session.
    let opened = read(&tally.sessions);
    let bounds = read(&tally.bytes_verified)..=read(&tally.bytes_sent);
    let found = format!(
        "{sessions} sessions, {opened} granted, {} of their URIs replaced; {bytes} bytes passed on",
        read(&tally.replaced)
    );
    verdict.judge("the relay has counted the same", found, sessions == opened && bounds.contains(&bytes));
}

fn note_work(verdict: &mut Verdict, stage: &Stage, cpu: f64, elapsed: Duration) {
    let tally = &stage.tally;
    let gb = read(&tally.bytes_verified) as f64 / 1e9;
    let rate = gb * 1000.0 / elapsed.as_secs_f64();
    verdict.note("bytes moved", format!("{gb:.2} GB in {:.0} s: {rate:.0} MB/s", elapsed.as_secs_f64()));
    verdict.note("the relay's CPU time", format!("{cpu:.1} s, {:.2} s per GB", cpu / gb));
    let sessions = read(&tally.sessions);
    verdict.note(
        "connections",
        format!("{}, {sessions} sessions, {} dialled", read(&tally.connections), read(&tally.dials)),
    );
    verdict.note("AUTHs", format!("{} granted, {} refused", read(&tally.auths), read(&tally.auths_refused)));
    verdict.note(
        "messages",
        format!(
            "{} files, {} in chats, {} chunks",
            read(&tally.files),
            read(&tally.chat_messages),
            read(&tally.chunks)
        ),
    );
    let (failed, succeeded) = (read(&tally.failure_reports), read(&tally.success_reports));
    verdict.note("REPORTs", format!("{failed} of failure, {succeeded} of success"));
    verdict.note("ends killed", read(&tally.kills).to_string());
    for (name, count, longest) in tally.scenes() {
        verdict.note(
            "scene",
            format!("{name:<20} {count:6} times, the longest took {:4.1} s", longest.as_secs_f64()),
        );
    }
}
