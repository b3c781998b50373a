//! What a small message costs on epoll and on a ring of our own: see README.md.

mod load;
mod ring;
mod server;
mod sys;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::thread::JoinHandleExt;
use std::process::ExitCode;
use std::sync::Arc;

use load::{Account, Measured, Shape};
use ring::Receive;
use server::Calls;

const HELP: &str = "\
What a message costs a thread that forwards it, on epoll and on a ring of its own.

Usage: ring-echo [OPTIONS]

  --rounds N        rounds, in each of which all engines take their turn [7; 1 to 1000]
  --messages N      messages of a round, where several are under way; a fifth of them where one is
                    [100000; 100 to 10000000]
  --load-spins      the load never sleeps, so that the server never pays for waking it
  --server-cpu N    the CPU of the server's thread [0]
  --load-cpu N      the CPU of the load's thread [1]
  --help            this text

It prints a table in Markdown, with the median of the rounds: CPU time of the server's thread a message with its answer (least to most),
that as a share of what epoll takes (median of the rounds' ratios), p50 from a message to its answer, system calls a message.

Status: 0 done; 1 something failed, or a byte that came was not the one sent; 2 wrong usage.
";

#[derive(Clone, Copy)]
enum Engine {
    Epoll,
    Ring,
    RingPoll,
}

const ENGINES: [(Engine, &str); 3] =
    [(Engine::Epoll, "epoll"), (Engine::Ring, "ring"), (Engine::RingPoll, "ring-poll")];

struct Options {
    rounds: usize,
    messages: usize,
    load_spins: bool,
    server_cpu: usize,
    load_cpu: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("ring-echo: {problem}; --help tells more");
            return ExitCode::from(2);
        }
    };
    match compare(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ring-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: Vec<String>) -> Result<Options, String> {
    let mut options = Options { rounds: 7, messages: 100_000, load_spins: false, server_cpu: 0, load_cpu: 1 };
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let mut number = |least: usize, most: usize| {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a number"))?;
            match value.parse() {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(format!("{name} takes a number from {least} to {most}, not {value:?}")),
            }
        };
        match &*name {
            "--rounds" => options.rounds = number(1, 1000)?,
            "--messages" => options.messages = number(100, 10_000_000)?,
            "--load-spins" => options.load_spins = true,
            "--server-cpu" => options.server_cpu = number(0, 1023)?,
            "--load-cpu" => options.load_cpu = number(0, 1023)?,
            _ => return Err(format!("{name:?} is no option")),
        }
    }
    Ok(options)
}

fn compare(options: &Options) -> io::Result<()> {
    let (_, flags) = ring::make().map_err(|error| io::Error::other(format!("io_uring_setup: {error}")))?;
    println!("Flags of the ring: {flags}. {} rounds.\n", options.rounds);
    println!("| Load | Engine | CPU, us (least to most) | of epoll's | p50, us | Calls |");
    println!("|---|---|---|---|---|---|");
    for (name, shape) in shapes(options.messages) {
        let mut rounds: [Vec<Measured>; ENGINES.len()] = Default::default();
        for _ in 0..options.rounds {
            for (index, (engine, _)) in ENGINES.into_iter().enumerate() {
                rounds[index].push(measure(engine, &shape, options)?);
            }
        }
        for (index, (_, engine)) in ENGINES.into_iter().enumerate() {
            print_row(name, engine, &rounds[index], &rounds[0]);
        }
    }
    Ok(())
}

fn shapes(messages: usize) -> [(&'static str, Shape); 4] {
    let shape = |pairs, window, message_bytes, messages| Shape { pairs, window, message_bytes, messages };
    [
        ("1 pair, window 1, 300 bytes", shape(1, 1, 300, messages / 5)),
        ("1 pair, window 16, 300 bytes", shape(1, 16, 300, messages)),
        ("8 pairs, window 8, 300 bytes", shape(8, 8, 300, messages / 8)),
        ("1 pair, window 1, 16 KiB", shape(1, 1, 16 * 1024, messages / 5)),
    ]
}

fn print_row(name: &str, engine: &str, rounds: &[Measured], baseline: &[Measured]) {
    let mut cpu: Vec<f64> = rounds.iter().map(|round| round.cpu_us).collect();
    let middle = median(&mut cpu);
    let (least, most) = (cpu[0], cpu[cpu.len() - 1]);
    let mut ratios: Vec<f64> =
        rounds.iter().zip(baseline).map(|(ours, base)| ours.cpu_us / base.cpu_us).collect();
    let p50 = median(&mut rounds.iter().map(|round| round.p50_us).collect::<Vec<_>>());
    let calls = median(&mut rounds.iter().map(|round| round.calls).collect::<Vec<_>>());
    println!(
        "| {name} | {engine} | {middle:.2} ({least:.2}-{most:.2}) | {:.2} | {p50:.1} | {calls:.2} |",
        median(&mut ratios)
    );
}

/// Sorts the figures, and tells the one in the middle.
fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// One engine, one load, with connections and threads of their own.
fn measure(engine: Engine, shape: &Shape, options: &Options) -> io::Result<Measured> {
    let (ours, theirs) = connections(2 * shape.pairs)?;
    let calls = Arc::new(Calls::default());
    let (counted, server_cpu) = (Arc::clone(&calls), options.server_cpu);
    let server = std::thread::spawn(move || {
        sys::pin(server_cpu)?;
        match engine {
            Engine::Epoll => server::epoll(&theirs, &counted),
            Engine::Ring => ring::serve(&theirs, Receive::Multishot, &counted),
            Engine::RingPoll => ring::serve(&theirs, Receive::Poll, &counted),
        }
    });
    let thread = server.as_pthread_t();
    let account = || Ok(Account { cpu_ns: sys::cpu_time_ns(thread)?, calls: calls.get() });
    let measured =
        sys::pin(options.load_cpu).and_then(|()| load::run(&ours, shape, options.load_spins, account));
    // The server ends when its connections do.
    drop(ours);
    let served = server.join().map_err(|_| io::Error::other("the server's thread has panicked"))?;
    match measured {
        // Where the server failed, that the load lost its connection is a consequence.
        Err(error) if served.is_ok() => Err(error),
        measured => served.and(measured),
    }
}

/// Connections on loopback: the load's ends, and the server's in the same order.
fn connections(count: usize) -> io::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    assert!(count <= ring::CONNECTIONS_MAX);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut ours, mut theirs) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let our = TcpStream::connect(listener.local_addr()?)?;
        let (their, _) = listener.accept()?;
        our.set_nodelay(true)?;
        their.set_nodelay(true)?;
        ours.push(our);
        theirs.push(their);
    }
    Ok((ours, theirs))
}
