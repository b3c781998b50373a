//! `Relay` without sockets: what forwarding costs apart from the kernel and TLS, for each chunk and for each byte.
//!
//! `crowd`: what a message, an AUTH and the end of a session take as sessions grow more, and what they hold in memory. Only the
//! relay's own calls are timed there. None of it may grow faster than the logarithm of their number.
//!
//! Both ends are on one core, or on two with the messages between them carried by hand. `crates/msrp-relay-core/tests/allocations.rs` counts what
//! is allocated on the same way.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "what cannot be set up cannot be measured"
)]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use msrp_proto::head::FailureReport;
use testkit_pure::crowd::Crowd;
use testkit_pure::rig::{Chunks, Rig, Unwatched};

const PIECE: usize = 64 << 10;

fn chunks(criterion: &mut Criterion) {
    for (layout, cores) in [("local", (0, 0)), ("split", (0, 1))] {
        let mut group = criterion.benchmark_group(format!("forward_{layout}"));
        for (bytes, reports) in [
            (200, FailureReport::Yes),
            (2000, FailureReport::Yes),
            (10_000, FailureReport::Yes),
            (10_000, FailureReport::No),
        ] {
            let name = format!("chunk_{bytes}_failure_report_{reports:?}").to_lowercase();
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(name, |bencher| {
                let mut rig = Rig::new(cores, Chunks { bytes, reports }, Unwatched);
                bencher.iter(|| rig.chunk());
            });
        }
        group.throughput(Throughput::Bytes(PIECE as u64));
        group.bench_function("giant_piece_64KiB", |bencher| {
            let chunks = Chunks { bytes: 1 << 40, reports: FailureReport::No };
            let mut rig = Rig::new(cores, chunks, Unwatched);
            rig.begin();
            bencher.iter(|| rig.piece());
        });
        group.finish();
    }
}

/// Sessions of one core. With all of them the bench holds some gigabytes.
const CROWDS: [usize; 4] = [1000, 10_000, 100_000, 1_000_000];

fn crowds(criterion: &mut Criterion) {
    for sessions in CROWDS {
        let mut group = criterion.benchmark_group(format!("crowd_{sessions}"));
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(500));
        // Made by the first of them that is measured.
        let crowd = RefCell::new(None);
        let of_each = |bencher: &mut Bencher<'_>, act: &dyn Fn(&mut Crowd) -> Duration| {
            let mut crowd = crowd.borrow_mut();
            let crowd = crowd.get_or_insert_with(|| entered(sessions));
            bencher.iter_custom(|times| (0..times).map(|_| act(crowd)).sum());
        };
        group.bench_function("message_200", |bencher| {
            of_each(bencher, &|crowd| {
                crowd.take_spent();
                crowd.message();
                crowd.take_spent()
            });
        });
        group.bench_function("auth", |bencher| {
            of_each(bencher, &|crowd| {
                crowd.leave();
                crowd.take_spent();
                crowd.enter();
                crowd.take_spent()
            });
        });
        group.bench_function("expiry", |bencher| {
            of_each(bencher, &|crowd| {
                crowd.take_spent();
                crowd.expire();
                let spent = crowd.take_spent();
                crowd.enter();
                spent
            });
        });
        group.finish();
    }
}

/// So many clients, and what each of them holds.
fn entered(sessions: usize) -> Crowd {
    let before = resident_bytes();
    let crowd = Crowd::new(sessions, Instant::now());
    let each = resident_bytes().saturating_sub(before) / sessions as u64;
    println!("{sessions} sessions: {each} bytes each in the relay and its bench");
    crowd
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

criterion_group!(benches, chunks, crowds);
criterion_main!(benches);
