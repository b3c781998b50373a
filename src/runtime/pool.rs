//! Buffers for reads, used again and again.
//!
//! Why: the bytes of a read are freed after they are written elsewhere. With the allocator alone, each such buffer
//! makes the top of a core's heap go up and down, and glibc gives the pages back to the system and takes them again:
//! half of all bytes of a file went through fresh pages, at a fifth of the relay's CPU time. Buffers for single chunks
//! do the same once a few of them are free: so there are three sizes.
//!
//! Invariants: a thread keeps at most [`Size::spare_max`] buffers of each of the [`SIZES`]; a buffer is lent to one
//! reader, then shared by references until the last of them is gone, on whatever thread; the next reader never sees
//! another's bytes. Queues count by length, so a reference keeps at most [`PINNED_FACTOR_MAX`] times its length in memory, except that each core may
//! have [`PINNED_BYTES_FREE`] lent: usually all of a buffer is written within a turn, and small parts need no copy.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Buffers of one size.
struct Size {
    bytes: usize,
    /// Spare ones of a thread.
    spare_max: usize,
}

/// The sizes of buffers. Each is [`PINNED_FACTOR_MAX`] times the one before, so a read fills that part of its buffer.
/// A thread keeps 2.6 MiB of spare ones at most: more would take minutes of load to come together, and look like a leak.
const SIZES: [Size; 3] = [
    Size { bytes: LARGEST / PINNED_FACTOR_MAX / PINNED_FACTOR_MAX, spare_max: 64 },
    Size { bytes: LARGEST / PINNED_FACTOR_MAX, spare_max: 32 },
    Size { bytes: LARGEST, spare_max: 16 },
];
/// One read, the rest of the read before, and some room.
const LARGEST: usize = 96 << 10;
/// A shorter read gets no buffer of the pool.
const SMALLEST_READ: usize = LARGEST / PINNED_FACTOR_MAX / PINNED_FACTOR_MAX / PINNED_FACTOR_MAX;

/// Queued bytes are counted by their length; their buffer is at most so many times as long.
const PINNED_FACTOR_MAX: usize = 4;
/// While a thread has lent no more than this, every part is a reference.
const PINNED_BYTES_FREE: usize = 4 << 20;

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; SIZES.len()]> = const { RefCell::new([const { Vec::new() }; SIZES.len()]) };
    /// What this thread has lent and has not been given back, by whatever thread.
    static OUT: Arc<AtomicUsize> = Arc::default();
    static TAKEN: Cell<Taken> = const { Cell::new(Taken { reused: 0, allocated: 0 }) };
}

/// How many buffers this thread has taken, by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) reused: u64,
    pub(super) allocated: u64,
}

/// The buffers that this thread has taken so far, and its spare ones.
pub(super) fn usage() -> (Taken, usize) {
    (TAKEN.get(), SPARE.with_borrow(|spare| spare.iter().map(Vec::len).sum()))
}

/// An empty buffer with at least this room.
pub(super) fn take(room: usize) -> Vec<u8> {
    let size = SIZES.iter().position(|size| room <= size.bytes);
    let Some(size) = size.filter(|_| room >= SMALLEST_READ) else { return Vec::with_capacity(room) };
    let spare = SPARE.with_borrow_mut(|spare| spare.get_mut(size).and_then(Vec::pop));
    let mut taken = TAKEN.get();
    match spare {
        Some(_) => taken.reused += 1,
        None => taken.allocated += 1,
    }
    TAKEN.set(taken);
    spare.unwrap_or_else(|| Vec::with_capacity(SIZES.get(size).map_or(room, |size| size.bytes)))
}

/// Makes a filled buffer shareable.
pub(super) fn freeze(mut buffer: Vec<u8>) -> Bytes {
    if buffer.is_empty() {
        give(buffer);
        return Bytes::new();
    }
    if buffer.capacity() > PINNED_FACTOR_MAX * buffer.len() {
        let mut smaller = take(buffer.len());
        smaller.extend_from_slice(&buffer);
        give(std::mem::replace(&mut buffer, smaller));
    }
    // Returns the buffer when it is dropped.
    Bytes::from_owner(Lent::new(buffer))
}

/// A part of what a buffer holds: by reference, unless it would keep much more in memory than it is counted for.
pub(super) fn part(bytes: &Bytes, range: Range<usize>) -> Bytes {
    let wanted = bytes.get(range.clone()).unwrap_or_default();
    let is_little = wanted.len() * PINNED_FACTOR_MAX < bytes.len();
    if is_little && OUT.with(|out| out.load(Ordering::Relaxed)) > PINNED_BYTES_FREE {
        Bytes::copy_from_slice(wanted)
    } else {
        bytes.slice(range)
    }
}

/// A buffer that returns to the spare ones of the thread where it is dropped.
struct Lent {
    buffer: Vec<u8>,
    /// Of the thread that has lent it.
    out: Arc<AtomicUsize>,
}

impl Lent {
    fn new(buffer: Vec<u8>) -> Self {
        let out = OUT.with(Arc::clone);
        out.fetch_add(buffer.capacity(), Ordering::Relaxed);
        Self { buffer, out }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.out.fetch_sub(self.buffer.capacity(), Ordering::Relaxed);
        give(std::mem::take(&mut self.buffer));
    }
}

/// Keeps a buffer for the next reader of this thread, if it is of the pool and there is room.
fn give(mut buffer: Vec<u8>) {
    let Some(size) = SIZES.iter().position(|size| size.bytes == buffer.capacity()) else { return };
    let spare_max = SIZES.get(size).map_or(0, |size| size.spare_max);
    buffer.clear();
    // Fails only while the thread ends.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if let Some(spare) = spare.get_mut(size).filter(|spare| spare.len() < spare_max) {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare() -> usize {
        usage().1
    }

    fn filled(bytes: usize) -> Vec<u8> {
        let mut buffer = take(LARGEST);
        buffer.resize(bytes, 7);
        buffer
    }

    #[test]
    fn a_buffer_comes_back_when_its_last_reference_is_gone() {
        let all = freeze(filled(90_000));
        let part = all.slice(10..20);
        drop(all);
        assert_eq!(spare(), 0);
        assert_eq!(part, [7; 10][..]);
        drop(part);
        assert_eq!(spare(), 1);
        let again = take(60_000);
        assert!(again.is_empty() && again.capacity() == LARGEST);
        assert_eq!(usage(), (Taken { reused: 1, allocated: 1 }, 0));
    }

    #[test]
    fn little_in_a_large_buffer_is_moved_to_one_of_its_size() {
        let little = LARGEST / PINNED_FACTOR_MAX - 1;
        let bytes = freeze(filled(little));
        assert_eq!(spare(), 1, "back already");
        assert_eq!(bytes, vec![7; little]);
        drop(bytes);
        assert_eq!(spare(), 2, "both");
        let small = freeze({
            let mut small = take(1000);
            small.push(1);
            small
        });
        assert_eq!(small, [1][..]);
        assert!(freeze(filled(0)).is_empty());
        assert_eq!(spare(), 2);
    }

    #[test]
    fn a_read_gets_a_buffer_that_it_fills_to_the_pinned_part_at_least() {
        for room in (1..=LARGEST).step_by(97).chain(SIZES.iter().map(|size| size.bytes)) {
            let buffer = take(room);
            assert!(buffer.capacity() >= room && buffer.capacity() <= PINNED_FACTOR_MAX * room, "{room}");
            drop(freeze({
                let mut buffer = buffer;
                buffer.resize(room, 1);
                buffer
            }));
        }
        assert_eq!((spare(), usage().0.allocated), (SIZES.len(), SIZES.len() as u64), "one of each");
    }

    #[test]
    fn little_keeps_a_buffer_only_while_not_much_is_lent() {
        let few = freeze(filled(LARGEST));
        let little = part(&few, 0..10);
        assert_eq!(little.as_ptr(), few.as_ptr(), "by reference");
        let many: Vec<_> = (0..=PINNED_BYTES_FREE / LARGEST).map(|_| freeze(filled(LARGEST))).collect();
        assert_ne!(part(&few, 0..10).as_ptr(), few.as_ptr(), "moved out");
        assert_eq!(part(&few, 0..LARGEST / PINNED_FACTOR_MAX).as_ptr(), few.as_ptr(), "enough of it");
        // They may come back anywhere.
        assert!(std::thread::spawn(move || drop(many)).join().is_ok());
        assert_eq!(part(&few, 0..10).as_ptr(), few.as_ptr(), "by reference again");
        assert_eq!(little, [7; 10][..]);
    }

    #[test]
    fn no_more_are_kept_than_allowed() {
        for size in SIZES {
            let before = spare();
            let many: Vec<_> = (0..2 * size.spare_max).map(|_| freeze(vec![7; size.bytes])).collect();
            drop(many);
            assert_eq!(spare() - before, size.spare_max);
        }
    }

    #[test]
    fn a_buffer_may_end_on_another_thread() {
        let bytes = freeze(filled(LARGEST));
        let there = std::thread::spawn(move || {
            drop(bytes);
            spare()
        });
        assert_eq!(there.join().ok(), Some(1));
        assert_eq!(spare(), 0);
    }
}
