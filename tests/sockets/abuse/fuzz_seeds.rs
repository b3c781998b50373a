//! Runs every fuzz body on its committed seeds, and on mutations of them that are the same each time: a fixed finding
//! cannot come back, and each run of the gate looks a little further than the seeds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

use testkit_pure::dice::Dice;
use testkit_pure::fuzz::{self, Body};

/// Those of the pure core, and the TLS records.
fn targets() -> impl Iterator<Item = (&'static str, Body)> {
    let records: Body = msrp_tls::by_hand::records;
    fuzz::TARGETS.into_iter().chain([("records", records)])
}

/// Mutated inputs for each target.
const MUTATIONS: usize = 1500;
/// Bytes of a mutated input.
const MUTATED_MAX: usize = 2048;

#[test]
fn every_seed_keeps_every_promise() {
    for (target, body) in targets() {
        for (name, bytes) in seeds(target) {
            run(body, &bytes, || format!("fuzz/seeds/{target}/{name}"));
        }
    }
}

#[test]
fn mutations_of_the_seeds_keep_every_promise() {
    for (target, body) in targets() {
        let seeds = seeds(target);
        for n in 0..MUTATIONS {
            let bytes = mutation(&mut Dice::new(n as u64), &seeds);
            run(body, &bytes, || format!("{target}, mutation {n}: {}", bytes.escape_ascii()));
        }
    }
}

#[test]
fn every_directory_of_seeds_belongs_to_a_target() {
    let known = |name: &str| targets().any(|(target, _)| target == name);
    for entry in fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known(&name), "fuzz/seeds/{name} belongs to no target");
    }
    let targets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for entry in fs::read_dir(targets).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.strip_suffix(".rs").is_some_and(known), "fuzz_targets/{name} has no body and no seeds");
    }
}

fn run(body: Body, bytes: &[u8], name: impl Fn() -> String) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(bytes))) {
        eprintln!("failed: {}", name());
        resume_unwind(panic);
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

/// Names and bytes, in order of the names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = directory().join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    assert!(!seeds.is_empty(), "{} is empty", directory.display());
    seeds.sort();
    seeds
}

/// A seed with a few changes, most of them to its lines and around separators.
fn mutation(dice: &mut Dice, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].1.clone();
    for _ in 0..1 + dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + 1 + dice.below(12)).min(bytes.len());
        match dice.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.draw().to_le_bytes()[0],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            4 => {
                let other = &seeds[dice.below(seeds.len())].1;
                let from = dice.below(other.len() + 1);
                let to = (from + dice.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            5 => {
                const SIGNS: [&[u8]; 12] =
                    [b"\r\n", b"\n", b"-------", b" ", b":", b";", b"\"", b"\\", b"*", b"%", b"\0", b"\xff"];
                let sign = SIGNS[dice.below(SIGNS.len())];
                bytes.splice(at..at, sign.iter().copied());
            }
            6 => bytes.truncate(at),
            _ => {
                let line =
                    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |n| at + n + 1);
                let copy = bytes[at..line].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes.truncate(MUTATED_MAX);
    bytes
}
