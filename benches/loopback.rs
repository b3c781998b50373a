//! The whole relay over real sockets, both clients behind it, TLS on all connections, with the tests' blocking
//! endpoints on the same machine. Wall-clock time, so only for comparing builds on a quiet machine. `msrp bench`
//! measures the relay's CPU time alone, with fast clients.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "what cannot be set up cannot be measured"
)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use testkit_net::process::RelayProcess;
use testkit_net::relay::Setup;
use testkit_net::transfer::Outgoing;

const FILE_BYTES: usize = 16 << 20;

fn sockets(criterion: &mut Criterion) {
    let setup = Setup { cores: "[0]", more: "log: {level: error}", ..Setup::default() };
    let relay = RelayProcess::start(&setup);
    let mut group = criterion.benchmark_group("loopback");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Bytes(FILE_BYTES as u64));
    let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
    let file = vec![0x5A; FILE_BYTES];
    for (name, chunk) in [("tls_giant", None), ("tls_chunks_10kB", Some(10_000))] {
        group.bench_function(name, |bencher| {
            let path = bob.path();
            bencher.iter(|| {
                std::thread::scope(|scope| {
                    let receiving = scope.spawn(|| bob.receive_file());
                    alice.send_file(&Outgoing { chunk, ..Outgoing::giant(&path, &file) });
                    assert_eq!(receiving.join().unwrap().data.len(), FILE_BYTES);
                });
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("tls_message_200B", |bencher| {
        let (path, words) = (bob.path(), [b'w'; 200]);
        bencher.iter(|| {
            let tid = alice.say(&path, &words);
            assert_eq!(alice.status(&tid), 200);
            bob.request("SEND")
        });
    });
    group.bench_function("connect_auth_close", |bencher| {
        bencher.iter(|| relay.client("user1").close());
    });
    group.finish();
}

criterion_group!(benches, sockets);
criterion_main!(benches);
