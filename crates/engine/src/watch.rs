//! The thread that knocks at executors from outside.
//!
//! Invariants: the thread knocks at an executor every [`REST`], and with the next look, at most [`LOOK_AT_REST`] later,
//! once it has used more CPU than an answer takes. An executor that is at work and does not look at sockets and timers is made to look within
//! about a [`TICK`]. No executor is made to look again before it has answered, so knocks cannot keep a slow one from
//! its tasks. Must not know the executor behind a waker.

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// How often the thread looks at what executors do, while none of them is busy.
const LOOK: Duration = Duration::from_millis(50);
/// The same while none needed a knock for [`AWAKE_FOR`]: a look costs two system calls, and an idle process makes few
/// others.
const LOOK_AT_REST: Duration = Duration::from_millis(200);
/// Longer than [`ANSWER`]: the pace changes after that only.
const AWAKE_FOR: Duration = Duration::from_millis(100);
/// The same while one is busy, and after a knock. Tasks that never breathe (`turn`) keep an executor from its sockets
/// and timers for about two of these, and longer where this thread gets no CPU. It is no shorter, because the thread
/// takes that CPU from others.
const TICK: Duration = Duration::from_millis(2);
/// An executor that has worked this part of the time since the last look is busy. So is one that did not answer within
/// a tick.
const BUSY_PART: u32 = 4;
/// Each counts as busy for so long.
const BUSY_FOR: Duration = Duration::from_millis(20);
/// What an idle executor uses within this time of a knock counts as its answer: a look soon after the knock, and the
/// next one.
const ANSWER: Duration = Duration::from_millis(75);
/// An executor is knocked at this often at least.
pub(super) const REST: Duration = Duration::from_secs(1);

/// How loud a knock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// A sleeping executor hears it at once, any other when it next looks.
    Soft,
    /// Makes it look.
    Hard,
}

/// What an executor and the thread share.
#[derive(Debug)]
struct Door {
    /// The CPU time of the executor's thread.
    clock: ClockId,
    asked: AtomicU64,
    answered: AtomicU64,
    wakers: Mutex<Wakers>,
}

/// The wakers of the tasks that answer.
#[derive(Debug, Default)]
struct Wakers {
    soft: Option<Waker>,
    hard: Option<Waker>,
}

impl Door {
    fn knock(&self, tone: Tone) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        let wakers = lock(&self.wakers);
        // The soft one answers hard knocks, too: among tasks that stay runnable it gets its turn, while the urgent
        // queue may have to wait for the next hard knock.
        wakers.soft.iter().for_each(Waker::wake_by_ref);
        if tone == Tone::Hard {
            wakers.hard.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn answer(&self) {
        self.answered.store(self.asked.load(Ordering::Acquire), Ordering::Release);
    }

    fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked.load(Ordering::Acquire)
    }

    fn cpu(&self) -> Option<Duration> {
        clock_gettime(self.clock).ok().map(Duration::from)
    }
}

/// An executor that is watched until this is dropped.
#[derive(Debug)]
pub(super) struct Watched(Arc<Door>);

impl Watched {
    /// Watches over the executor of the calling thread from here on.
    pub(super) fn begin() -> io::Result<Self> {
        let door = Arc::new(Door {
            clock: own_clock(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            wakers: Mutex::default(),
        });
        let mut rounds = lock(&ROUNDS);
        if !rounds.begun {
            std::thread::Builder::new().name("knock".to_owned()).spawn(go_round)?;
            rounds.begun = true;
        }
        rounds.doors.push((Arc::clone(&door), Look::new(Instant::now())));
        drop(rounds);
        FIRST.notify_one();
        Ok(Self(door))
    }

    /// Whether a hard knock can end a turn already.
    pub(super) fn can_be_interrupted(&self) -> bool {
        lock(&self.0.wakers).hard.is_some()
    }

    /// Lets the executor answer knocks beside those tasks.
    pub(super) fn answers(&self) -> Answers {
        Answers(Arc::clone(&self.0))
    }

    /// The task that answers knocks of this tone. It does not end.
    pub(super) fn answer(&self, tone: Tone) -> impl Future<Output = ()> + 'static {
        let door = Arc::clone(&self.0);
        let mut is_known = false;
        poll_fn(move |cx| {
            if mem::replace(&mut is_known, true) {
                door.answer();
            } else {
                // Kept for good: a task must not be freed while another thread holds its wakers; see
                // `docs/dev/engine.md`.
                mem::forget(cx.waker().clone());
                let waker = Some(cx.waker().clone());
                let mut wakers = lock(&door.wakers);
                match tone {
                    Tone::Soft => wakers.soft = waker,
                    Tone::Hard => wakers.hard = waker,
                }
            }
            Poll::Pending
        })
    }
}

/// Answers knocks for an executor that goes on looking without a turn of the engine.
#[derive(Debug)]
pub(super) struct Answers(Arc<Door>);

impl Answers {
    /// The executor has just looked. Costs no system call.
    pub(super) fn answer(&self) {
        if !self.0.has_answered() {
            self.0.answer();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&ROUNDS).doors.retain(|(door, _)| !Arc::ptr_eq(door, &self.0));
        // The tasks are kept, and hold the door, which holds their wakers: this breaks the circle.
        *lock(&self.0.wakers) = Wakers::default();
    }
}

/// The clock of the calling thread, for other threads to read. The kernel numbers it so (`MAKE_THREAD_CPUCLOCK`).
fn own_clock() -> ClockId {
    const PER_THREAD_SCHEDULED: i32 = 4 | 2;
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    ClockId::from_raw((!thread << 3) | PER_THREAD_SCHEDULED)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All executors of the process.
struct Rounds {
    begun: bool,
    doors: Vec<(Arc<Door>, Look)>,
}

static ROUNDS: Mutex<Rounds> = Mutex::new(Rounds { begun: false, doors: Vec::new() });
/// Wakes the watching thread at the first executor.
static FIRST: Condvar = Condvar::new();

/// What the thread does, as long as the process lives.
fn go_round() {
    let mut rounds = lock(&ROUNDS);
    loop {
        let now = Instant::now();
        let mut pause = LOOK_AT_REST;
        for (door, look) in &mut rounds.doors {
            let seen = Seen { at: now, cpu: door.cpu(), has_answered: door.has_answered() };
            if let Some(tone) = look.next(&seen) {
                door.knock(tone);
            }
            pause = pause.min(look.pause(now));
        }
        if rounds.doors.is_empty() {
            rounds = FIRST.wait(rounds).unwrap_or_else(PoisonError::into_inner);
        } else {
            drop(rounds);
            std::thread::sleep(pause);
            rounds = lock(&ROUNDS);
        }
    }
}

/// What an executor looks like from outside.
struct Seen {
    at: Instant,
    /// What its thread has used so far, if the system says.
    cpu: Option<Duration>,
    /// Whether it has answered the last knock.
    has_answered: bool,
}

/// The last look, and what was done about it.
#[derive(Debug)]
struct Look {
    at: Instant,
    cpu: Option<Duration>,
    knocked: Option<Instant>,
    was_hard: bool,
    busy_until: Instant,
}

impl Look {
    fn new(now: Instant) -> Self {
        Self { at: now, cpu: None, knocked: None, was_hard: false, busy_until: now }
    }

    /// Whether the next look must come soon: the executor is busy, or has an answer to give.
    fn is_urgent(&self, now: Instant) -> bool {
        now < self.busy_until || self.knocked == Some(now)
    }

    /// When the next look is due.
    fn pause(&self, now: Instant) -> Duration {
        if self.is_urgent(now) {
            TICK
        } else if self.knocked.is_some_and(|knocked| now < knocked + AWAKE_FOR) {
            LOOK
        } else {
            LOOK_AT_REST
        }
    }

    /// Whether to knock.
    fn next(&mut self, seen: &Seen) -> Option<Tone> {
        let used = seen.cpu.zip(self.cpu).map(|(now, before)| now.saturating_sub(before));
        let elapsed = seen.at.saturating_duration_since(self.at);
        let has_moved = used.is_none_or(|used| !used.is_zero());
        let is_busy = used.is_some_and(|used| !used.is_zero() && used * BUSY_PART >= elapsed);
        (self.at, self.cpu) = (seen.at, seen.cpu);
        let since = self.knocked.map_or(Duration::MAX, |knocked| seen.at.saturating_duration_since(knocked));
        let only_answered = since <= ANSWER && !is_busy;
        let tone = if seen.has_answered {
            self.was_hard = false;
            ((has_moved && !only_answered) || since >= REST).then_some(Tone::Soft)
        } else if has_moved {
            // Hard once: a hard knock makes it look and also ends a turn, and on a slow machine the next turn is not
            // over by the next look.
            (!mem::replace(&mut self.was_hard, true)).then_some(Tone::Hard)
        } else {
            // It sleeps, or gets no CPU.
            (since >= LOOK).then_some(Tone::Soft)
        };
        if is_busy || tone == Some(Tone::Hard) {
            self.busy_until = seen.at + BUSY_FOR;
        }
        if tone.is_some() {
            self.knocked = Some(seen.at);
        }
        tone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An executor as it is seen, look after look.
    struct Story {
        began: Instant,
        now: Instant,
        cpu: Duration,
        look: Look,
    }

    impl Story {
        fn new() -> Self {
            let now = Instant::now();
            let mut story = Self { began: now, now, cpu: Duration::from_millis(3), look: Look::new(now) };
            assert_eq!(
                story.sees(0, true),
                Some(Tone::Soft),
                "a new one is knocked at: it may sleep already"
            );
            story
        }

        /// After so long, it has used so many microseconds more.
        fn sees_after(&mut self, time: Duration, used: u64, has_answered: bool) -> Option<Tone> {
            self.now += time;
            self.cpu += Duration::from_micros(used);
            self.look.next(&Seen { at: self.now, cpu: Some(self.cpu), has_answered })
        }

        fn sees(&mut self, used: u64, has_answered: bool) -> Option<Tone> {
            self.sees_after(LOOK, used, has_answered)
        }
    }

    #[test]
    fn one_that_only_answers_is_knocked_at_once_in_a_while() {
        let mut story = Story::new();
        // It answers at once, and is asleep again after the look that follows the knock.
        let (mut knocks, mut looks, mut used) = (0, 0, [30, 10].into_iter());
        while story.now < story.began + 10 * REST + LOOK_AT_REST {
            let pause = story.look.pause(story.now);
            looks += 1;
            if story.sees_after(pause, used.next().unwrap_or(0), true).is_some() {
                knocks += 1;
                used = [30, 10].into_iter();
            }
        }
        assert!((8..=10).contains(&knocks), "{knocks}");
        assert!(looks <= 9 * knocks, "{looks} looks, each of two system calls");
    }

    #[test]
    fn one_that_has_moved_is_knocked_at() {
        let mut story = Story::new();
        assert_eq!(story.sees_after(TICK, 40, true), None, "that was its answer");
        assert_eq!(story.sees(10, true), None, "and this the rest of it");
        assert_eq!(story.sees(0, true), None);
        assert_eq!(story.sees(7, true), Some(Tone::Soft));
    }

    #[test]
    fn one_that_sleeps_over_a_knock_is_knocked_at_until_it_answers() {
        let mut story = Story::new();
        for _ in 0..5 {
            assert_eq!(story.sees_after(TICK, 0, false), None);
            assert_eq!(story.sees(0, false), Some(Tone::Soft));
        }
        assert_eq!(story.sees(40, true), None);
    }

    #[test]
    fn one_that_works_and_does_not_look_is_made_to_once_for_each_answer() {
        let mut story = Story::new();
        assert_eq!(story.sees(50_000, true), Some(Tone::Soft));
        assert!(story.look.is_urgent(story.now));
        for _ in 0..2 {
            assert_eq!(story.sees_after(TICK, 1000, false), Some(Tone::Hard));
            assert_eq!(story.sees_after(TICK, 1000, false), None);
            assert_eq!(story.sees_after(TICK, 1000, false), None);
            assert_eq!(story.sees_after(TICK, 1000, true), Some(Tone::Soft));
        }
    }

    #[test]
    fn one_that_gets_little_cpu_and_does_not_look_is_watched_closely() {
        let mut story = Story::new();
        assert_eq!(story.sees_after(TICK, 10, true), None);
        assert_eq!(story.sees_after(2 * LOOK, 900, true), Some(Tone::Soft));
        assert!(story.look.is_urgent(story.now), "whether it answers");
        assert_eq!(story.sees_after(TICK, 10, false), Some(Tone::Hard));
        assert_eq!(story.sees_after(TICK, 0, true), None);
        assert!(story.look.is_urgent(story.now), "for it needed a hard one");
        assert_eq!(story.sees_after(BUSY_FOR, 0, true), None);
        assert!(!story.look.is_urgent(story.now));
    }

    #[test]
    fn one_whose_time_cannot_be_told_is_knocked_at_all_the_time() {
        let mut story = Story::new();
        let mut knocks = 0;
        for _ in 0..20 {
            story.now += LOOK;
            let seen = Seen { at: story.now, cpu: None, has_answered: true };
            knocks += u32::from(story.look.next(&seen).is_some());
        }
        assert_eq!(knocks, 10);
    }

    #[test]
    fn a_thread_of_ones_own_can_be_timed_from_outside() {
        let used = || clock_gettime(own_clock()).ok().map(Duration::from);
        let before = used();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let after = used();
        assert!(before.is_some() && before < after, "{before:?} {after:?}");
    }
}
