//! The protocol's pure code: parsing, rewriting, looking for end-lines, digests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "what cannot be set up cannot be measured"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use msrp_proto::digest::{Algorithm, Authorization, Challenge, Ha1, NonceUse, check};
use msrp_proto::head::{ByteRange, Rewrite};
use msrp_proto::parser::{FramePart, Parser, ParserLimits};
use msrp_proto::uri::MsrpUri;

/// A chunk of a file as it comes in over two relays.
const HEAD: &str = "MSRP d93kswow9z SEND\r\n\
    To-Path: msrps://relay.example.com:2855/7rG2mXw0QbLs9TzEoVh4KdAAAAAA;tcp \
    msrps://relay.example.net:2855/Zq81nTfKp3yWcA0uJm6xEvBBBBBB;tcp \
    msrps://192.0.2.77:50120/c3Vt9gD5eR7wQz;tcp\r\n\
    From-Path: msrps://198.51.100.23:41502/u4Kd0wR9sQ2mZ7;tcp\r\n\
    Message-ID: 8822s7v0p3m1\r\n\
    Byte-Range: 1048577-*/1073741824\r\n\
    Failure-Report: yes\r\n\
    Content-Type: application/octet-stream\r\n\r\n";

/// Bytes that look random and hold no end-line.
fn body(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Runs a parser over all of it; returns how many parts there were.
fn parse(parser: &mut Parser, mut bytes: &[u8]) -> usize {
    let mut pieces = 0;
    while let Ok(Some(step)) = parser.step(bytes) {
        bytes = bytes.get(step.consumed..).unwrap_or_default();
        pieces += 1;
    }
    pieces
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let bodiless = format!("{}-------d93kswow9z$\r\n", HEAD.strip_suffix("\r\n").unwrap());
    group.throughput(Throughput::Elements(1));
    group.bench_function("head_3_hops", |bencher| {
        let mut parser = Parser::new(ParserLimits::default());
        bencher.iter(|| assert_eq!(parse(&mut parser, black_box(bodiless.as_bytes())), 2));
    });
    for bytes in [200, 2000, 10_000] {
        let frame = [HEAD.as_bytes(), &body(bytes), b"\r\n-------d93kswow9z+\r\n"].concat();
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("chunk_{bytes}"), |bencher| {
            let mut parser = Parser::new(ParserLimits::default());
            bencher.iter(|| assert_eq!(parse(&mut parser, black_box(&frame)), 3));
        });
    }
    group.finish();
}

/// The cost of searching a body for the end-line, by the body's content.
fn end_lines(criterion: &mut Criterion) {
    const BYTES: usize = 64 << 10;
    let bodies = [
        ("random", body(BYTES)),
        ("zeros", vec![0; BYTES]),
        ("hyphens", vec![b'-'; BYTES]),
        ("lines", b"some words of a text\r\n".repeat(BYTES / 22)),
        ("near_misses", b"\r\n-------d93kswow9y$".repeat(BYTES / 20)),
    ];
    let mut group = criterion.benchmark_group("end_line");
    for (name, body) in bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            let mut parser = Parser::new(ParserLimits::default());
            parse(&mut parser, HEAD.as_bytes());
            bencher.iter(|| parse(&mut parser, black_box(&body)));
        });
    }
    group.finish();
}

fn rewriting(criterion: &mut Criterion) {
    let mut parser = Parser::new(ParserLimits::default());
    let Some(FramePart::Head(head)) = parser.step(HEAD.as_bytes()).unwrap().map(|step| step.piece) else {
        panic!("no head");
    };
    let mut group = criterion.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(1));
    group.bench_function("head_1_move", |bencher| {
        let mut out = Vec::with_capacity(2048);
        let range = ByteRange { start: 1_048_577, end: None, total: Some(1 << 30) };
        let rewrite = Rewrite { tid: b"abcdefghijkl", moves: 1, byte_range: Some(range) };
        bencher.iter(|| {
            out.clear();
            head.rewrite(black_box(HEAD.as_bytes()), &rewrite, &mut out);
            out.len()
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("uri");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |bencher| {
        let uri = b"msrps://relay.example.com:2855/7rG2mXw0QbLs9TzEoVh4KdAAAAAA;tcp";
        bencher.iter(|| MsrpUri::parse(black_box(uri)).unwrap().port());
    });
    group.finish();
}

/// The relay's work for an AUTH: reading the client's answer and checking it.
fn digests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Elements(1));
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let challenge = Challenge {
            realm: "example.com".into(),
            nonce: "qG2mXw0QbLs9TzEoVh4KdA".into(),
            opaque: Some("0".into()),
            algorithm,
            stale: false,
        };
        let uri = b"msrps://relay.example.com:2855;tcp";
        let ha1 = Ha1::new(algorithm, "alice", "example.com", "wonderland");
        let value = challenge.answer("alice", &ha1, uri, NonceUse { nc: 1, cnonce: "9f2c" }).to_string();
        group.bench_function(format!("check_{}", algorithm.as_str().to_lowercase()), |bencher| {
            bencher.iter(|| {
                let authorization = Authorization::parse(black_box(value.as_bytes())).unwrap();
                assert!(check(&authorization, &ha1, "AUTH", uri).is_some());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parsing, end_lines, rewriting, digests);
criterion_main!(benches);
