//! What the relay allocates while it forwards, in steady state, on one core: nothing.
//!
//! Counts only the relay's own calls, after it has grown as large as this load makes it. The runtime's buffers around
//! them (to receive into and to encrypt into) are not included. A count is not a time: it is the same on every machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "the crate is pure, its tests need not be"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use msrp_proto::head::FailureReport;
use testkit_pure::rig::{Chunks, Rig, Watch};

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: all methods are the system allocator's, which keeps the trait's contract; counting touches no memory of the
// heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    if WATCHING.get() {
        COUNTED.set(COUNTED.get() + 1);
    }
}

struct Counter;

impl Watch for Counter {
    fn begin(&self) {
        WATCHING.set(true);
    }

    fn end(&self) {
        WATCHING.set(false);
    }
}

const WARM_UP: u32 = 2000;
const CHUNKS: u32 = 10_000;

/// Allocations per chunk once everything has grown.
fn allocations(cores: (usize, usize), bytes: usize, reports: FailureReport) -> f64 {
    let mut rig = Rig::new(cores, Chunks { bytes, reports }, Counter);
    for _ in 0..WARM_UP {
        rig.chunk();
    }
    COUNTED.set(0);
    for _ in 0..CHUNKS {
        rig.chunk();
    }
    let each = COUNTED.get() as f64 / f64::from(CHUNKS);
    println!("{bytes} bytes, Failure-Report {reports:?}, cores {cores:?}");
    println!("allocations per chunk: {each}");
    each
}

#[test]
fn nothing_is_allocated_for_a_chunk() {
    for bytes in [200, 2000, 10_000, 60_000] {
        for reports in [FailureReport::No, FailureReport::Yes] {
            let each = allocations((0, 0), bytes, reports);
            assert!(each < 0.001, "{each} allocations for each chunk of {bytes} bytes");
        }
    }
}

#[test]
fn nothing_is_allocated_for_a_piece_of_a_giant_chunk() {
    let mut rig = Rig::new((0, 0), Chunks { bytes: 1 << 40, reports: FailureReport::No }, Counter);
    rig.begin();
    for _ in 0..WARM_UP {
        rig.piece();
    }
    COUNTED.set(0);
    for _ in 0..CHUNKS {
        rig.piece();
    }
    assert_eq!(COUNTED.get(), 0);
}

#[test]
fn the_counter_counts() {
    Counter.begin();
    let boxed = std::hint::black_box(Box::new(1));
    Counter.end();
    drop(boxed);
    assert_eq!(COUNTED.get(), 1);
}
