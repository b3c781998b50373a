//! `Relay` without sockets: the cost of forwarding, without the kernel and TLS, for each chunk and for each byte.
//!
//! Both ends are on one core, or on two with the messages between them carried by hand.
//! `crates/msrp-relay-core/tests/allocations.rs` counts the allocations on the same path.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "what cannot be set up cannot be measured"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use msrp_proto::head::FailureReport;
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

criterion_group!(benches, chunks);
criterion_main!(benches);
