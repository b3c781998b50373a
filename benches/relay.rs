//! `Relay` without sockets: the cost of forwarding, without the kernel and TLS, for each chunk and for each byte; and
//! what a message, an AUTH and the end of a session cost as the sessions of one core grow more.
//!
//! `forward_*`: both ends are on one core, or on two with the messages between them carried by hand.
//! `crates/msrp-relay-core/tests/allocations.rs` counts the allocations on the same path.
//!
//! `growth_*`: nothing may grow faster than the logarithm of the number of sessions. But memory does: what fits into the
//! caches with a thousand sessions does not with a million. So each step is measured twice, with the same few
//! sessions among all (`hot`) and with any of them (`any`): growth of the first is work, growth of the second alone is
//! waiting for memory. Two crowds: a user each, the clients in pairs; and few users, all of whose peers are behind one
//! connection. Only the relay's own calls are timed, and the cost of timing them is taken off.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "what cannot be set up cannot be measured"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use msrp_proto::head::FailureReport;
use testkit_pure::crowd::Crowd;
use testkit_pure::dice::Dice;
use testkit_pure::rig::{Chunks, Rig, Unwatched, Watch};

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
const SIZES: [u32; 4] = [1000, 10_000, 100_000, 1_000_000];
/// Users that have all of the sessions, where not each session has a user of its own. All of them are written to by one
/// connection there.
const FEW: u32 = 16;
/// Of the hot set: with more the caches would be too small for it already with a thousand sessions.
const HOT: usize = 50;
/// Sessions of a short life that are there at once.
const SHORT: u32 = 50;
/// Each step is measured so often; before that, criterion warms up with few rounds at a time.
const SAMPLES: usize = 10;
/// A sample has at least so many rounds. Criterion would take fewer: for it, making the crowd belongs to the first.
const ROUNDS: u64 = 1000;
/// So many of the longest single steps are told.
const LONGEST: usize = 3;

/// Live bytes of the heap, as they were asked for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: all methods are the system allocator's, which keeps the trait's contract; counting touches no memory of the
// heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
}

/// Times the relay's own calls.
struct Clock {
    /// What timing one call adds to its time.
    cost: Duration,
    began: Cell<Instant>,
    calls: Cell<u32>,
    spent: Cell<Duration>,
    /// The longest call, by the CPU time of this thread: other work of the machine is not in it. Only while this is
    /// asked for: that clock is slow.
    longest: Cell<Option<Duration>>,
    began_cpu: Cell<Duration>,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        let mut clock = Self {
            cost: Duration::ZERO,
            began: Cell::new(now),
            calls: Cell::new(0),
            spent: Cell::new(Duration::ZERO),
            longest: Cell::new(None),
            began_cpu: Cell::new(Duration::ZERO),
        };
        let mut costs: Vec<Duration> = (0..101)
            .map(|_| {
                (0..1000).for_each(|_| {
                    clock.begin();
                    clock.end();
                });
                clock.take() / 1000
            })
            .collect();
        costs.sort_unstable();
        clock.cost = costs[50];
        clock
    }

    /// What was spent since this was asked last.
    fn take(&self) -> Duration {
        let timing = self.cost * self.calls.take();
        self.spent.take().saturating_sub(timing)
    }
}

impl Watch for Clock {
    fn begin(&self) {
        if self.longest.get().is_some() {
            self.began_cpu.set(cpu_time());
        }
        self.began.set(Instant::now());
    }

    fn end(&self) {
        let spent = self.began.get().elapsed();
        self.calls.set(self.calls.get() + 1);
        self.spent.set(self.spent.get() + spent);
        if let Some(longest) = self.longest.get() {
            self.longest.set(Some(longest.max(cpu_time() - self.began_cpu.get())));
        }
    }
}

/// One row of the table at the end.
struct Row {
    step: String,
    /// The same step with the hot set.
    is_hot: bool,
    /// By the position in [`SIZES`]: nanoseconds, or bytes.
    each: [Option<f64>; SIZES.len()],
}

/// What was measured, in the order in which it was.
#[derive(Default)]
struct Growth {
    rows: Vec<Row>,
    long: Vec<String>,
}

impl Growth {
    fn set(&mut self, step: &str, is_hot: bool, size: usize, value: f64) {
        let found = self.rows.iter().position(|row| row.step == step && row.is_hot == is_hot);
        let index = found.unwrap_or_else(|| {
            self.rows.push(Row { step: step.to_owned(), is_hot, each: [None; SIZES.len()] });
            self.rows.len() - 1
        });
        self.rows[index].each[size] = Some(value);
    }

    /// How often the first value each value of a row is.
    fn ratios(&self, step: &str, is_hot: bool) -> [Option<f64>; SIZES.len()] {
        let row = self.rows.iter().find(|row| row.step == step && row.is_hot == is_hot);
        row.map_or([None; SIZES.len()], |row| row.each.map(|value| Some(value? / row.each[0]?)))
    }

    fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!(
            "\nFor each step: nanoseconds, and how many times as long as with {} sessions; or bytes",
            SIZES[0]
        );
        print!("{:<34}", "");
        SIZES.iter().for_each(|sessions| print!("{sessions:>20}"));
        println!("   against the logarithm");
        for row in &self.rows {
            let set = if row.is_hot { "hot" } else { "any" };
            print!("{:<34}", format!("{}, {set}", row.step));
            let ratios = self.ratios(&row.step, row.is_hot);
            for (value, ratio) in row.each.iter().zip(ratios) {
                let text = value.map_or(String::from("-"), |value| format!("{value:.0}"));
                let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2} x)"));
                print!("{:>20}", text + &ratio);
            }
            println!("   {}", self.verdict(row));
        }
        println!("The longest single steps while they entered, in CPU time:");
        self.long.iter().for_each(|line| println!("  {line}"));
        println!();
    }

    fn verdict(&self, row: &Row) -> &'static str {
        if row.each[0].is_none() {
            return "nothing to compare with";
        }
        let hot = self.ratios(&row.step, true);
        let work =
            if row.is_hot || hot.iter().any(Option::is_some) { hot } else { self.ratios(&row.step, false) };
        match (is_within(work), is_within(self.ratios(&row.step, row.is_hot))) {
            (true, true) => "within",
            (true, false) => "the work is within (hot); the rest is memory out of the caches",
            (false, _) => "GROWS FASTER",
        }
    }
}

/// Whether no ratio is above that of the logarithms, but for a tenth that one measurement differs from the next.
fn is_within(ratios: [Option<f64>; SIZES.len()]) -> bool {
    let logs = SIZES.map(|sessions| f64::from(sessions).ln() / f64::from(SIZES[0]).ln());
    ratios.into_iter().zip(logs).all(|(ratio, log)| ratio.is_none_or(|ratio| ratio <= log * 1.1))
}

/// A crowd that is made when the first of its steps is measured.
struct Made {
    users: u32,
    sessions: u32,
    crowd: Option<Crowd<Clock>>,
    dice: Dice,
}

impl Made {
    fn crowd(&mut self, growth: &mut Growth) -> (&mut Crowd<Clock>, &mut Dice) {
        if self.crowd.is_none() {
            self.crowd = Some(self.make(growth));
        }
        (self.crowd.as_mut().unwrap(), &mut self.dice)
    }

    /// Lets all clients enter and speak once.
    fn make(&self, growth: &mut Growth) -> Crowd<Clock> {
        let Self { users, sessions, .. } = *self;
        let (live, resident) = (LIVE.get(), resident_bytes());
        let mut crowd = Crowd::new(users, Instant::now(), Clock::new());
        if users != sessions {
            crowd.add_stranger();
        }
        println!("{sessions} sessions of {users} users enter ...");
        let mut long = Vec::new();
        for number in 1..=sessions {
            crowd.watch().longest.set(Some(Duration::ZERO));
            crowd.enter();
            long.push((crowd.watch().longest.take().unwrap_or_default(), number));
            if long.len() > 1000 {
                keep_longest(&mut long);
            }
        }
        keep_longest(&mut long);
        let long: Vec<String> =
            long.iter().map(|(spent, number)| format!("{spent:.1?} (AUTH {number})")).collect();
        growth.long.push(format!("{sessions} of {users} users: {}", long.join(", ")));
        let idle = usize::try_from(LIVE.get() - live).unwrap() - crowd.own_bytes();
        for hearer in 0..crowd.hearers() {
            crowd.message(hearer);
        }
        let alarms = crowd.pass_alarms();
        crowd.watch().take();
        let each = |bytes: usize| bytes / sessions as usize;
        let heap = usize::try_from(LIVE.get() - live).unwrap() - crowd.own_bytes();
        let pages = resident_bytes().saturating_sub(resident);
        println!(
            "{sessions} sessions of {users} users: {} bytes of heap each, {} when they have spoken, without the bench's own {}; \
             resident with them {}; {alarms} alarms",
            each(idle),
            each(heap),
            each(crowd.own_bytes()),
            each(pages),
        );
        let size = SIZES.iter().position(|size| *size == sessions).unwrap();
        let whose = whose(users, sessions);
        growth.set(&format!("bytes of an idle one, {whose}"), false, size, each(idle) as f64);
        growth.set(&format!("bytes after a message, {whose}"), false, size, each(heap) as f64);
        crowd
    }
}

fn whose(users: u32, sessions: u32) -> &'static str {
    if users == sessions { "in pairs" } else { "few users, one peer" }
}

/// One measured step: what is done between two looks at the clock is not all timed.
type Step<'a> = &'a dyn Fn(&mut Crowd<Clock>, &mut Dice, u64) -> Duration;

fn growth(criterion: &mut Criterion) {
    let growth = RefCell::new(Growth::default());
    for (size, sessions) in SIZES.into_iter().enumerate() {
        if is_trial() && size > 0 {
            break;
        }
        for users in [sessions, FEW] {
            let mut group = criterion.benchmark_group(format!("growth_{sessions}_{users}"));
            group
                .sample_size(SAMPLES)
                .sampling_mode(SamplingMode::Flat)
                .nresamples(1000)
                .measurement_time(Duration::from_millis(300))
                .warm_up_time(Duration::from_millis(100));
            let made = RefCell::new(Made { users, sessions, crowd: None, dice: Dice::new(7) });
            steps(&mut group, (&made, &growth), size);
            group.finish();
        }
    }
    growth.borrow().print();
}

fn steps(
    group: &mut BenchmarkGroup<'_, WallTime>,
    (made, growth): (&RefCell<Made>, &RefCell<Growth>),
    size: usize,
) {
    let mut bench = |name: &str, is_hot: bool, step: Step<'_>| {
        let mut samples = Vec::new();
        let title = format!("{name}_{}", if is_hot { "hot" } else { "any" });
        group.bench_function(title, |bencher| {
            bencher.iter_custom(|times| {
                let (mut made, mut growth) = (made.borrow_mut(), growth.borrow_mut());
                let (crowd, dice) = made.crowd(&mut growth);
                crowd.watch().take();
                let rounds = times.max(ROUNDS);
                let each = step(crowd, dice, rounds).as_nanos() as f64 / rounds as f64;
                samples.push(each);
                Duration::from_nanos((each * times as f64) as u64)
            });
        });
        // The least of them: what other work of the machine takes is not in it.
        if let Some(least) = samples.into_iter().rev().take(SAMPLES).reduce(f64::min) {
            let made = made.borrow();
            let step = format!("{name}, {}", whose(made.users, made.sessions));
            growth.borrow_mut().set(&step, is_hot, size, least);
        }
    };
    for is_hot in [true, false] {
        bench("message_200", is_hot, &|crowd, dice, times| {
            (0..times).for_each(|_| speak(crowd, dice, is_hot));
            crowd.watch().take()
        });
        bench("alarm", is_hot, &|crowd, dice, times| {
            let (mut count, mut spent) = (0, Duration::ZERO);
            for _ in 0..times.min(100) {
                (0..HOT).for_each(|_| speak(crowd, dice, is_hot));
                crowd.watch().take();
                count += crowd.pass_alarms();
                spent += crowd.watch().take();
            }
            spent.mul_f64(times as f64 / f64::from(count))
        });
    }
    for is_hot in [true, false] {
        bench("auth", is_hot, &|crowd, _, times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                if is_hot {
                    crowd.leave_again()
                } else {
                    crowd.leave()
                }
                crowd.watch().take();
                crowd.enter();
                spent += crowd.watch().take();
                crowd.meet_last();
            }
            spent
        });
        bench("leave", is_hot, &|crowd, _, times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                crowd.watch().take();
                if is_hot {
                    crowd.leave_again()
                } else {
                    crowd.leave()
                }
                spent += crowd.watch().take();
                crowd.enter();
                crowd.meet_last();
            }
            spent
        });
    }
    bench("expiry", true, &|crowd, _, times| {
        let (mut count, mut spent) = (0, Duration::ZERO);
        while count < times {
            crowd.pass_alarms();
            crowd.enter_and_expire(SHORT, |crowd| {
                crowd.watch().take();
                crowd.expire();
                spent += crowd.watch().take();
            });
            count += u64::from(SHORT);
        }
        spent.mul_f64(times as f64 / count as f64)
    });
    bench("expiry", false, &|crowd, _, times| {
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            crowd.watch().take();
            crowd.expire();
            spent += crowd.watch().take();
            crowd.leave_expired();
            crowd.enter();
            crowd.meet_last();
        }
        spent
    });
}

/// One message of a pair.
fn speak(crowd: &mut Crowd<Clock>, dice: &mut Dice, is_hot: bool) {
    let all = crowd.hearers();
    crowd.message(dice.below(if is_hot { all.min(HOT) } else { all }));
}

fn keep_longest(steps: &mut Vec<(Duration, u32)>) {
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps.truncate(LONGEST);
}

/// Of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Everything runs once, to see that it runs.
fn is_trial() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

criterion_group!(benches, chunks, growth);
criterion_main!(benches);
