//! Four relays behind one SRV name, hundreds of clients spread over them, and one relay that dies in the middle.
//!
//! `scripts/farm.sh` builds it and runs its one ignored test; the orders come in the environment. The relays, their
//! name server and their accounts are the [`relays`]; two clients with a session between them are a [`pair`]; [`loss`]
//! says what the clients of a dead relay must have heard. The ends of a session, their ledgers and the contents of
//! messages are those of the soak.
mod crowd;
mod loss;
mod pair;
mod relays;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::driver::stage::read;
use crate::driver::verdict::Verdict;
use crowd::{Cost, Crowd};
use relays::{Farm, RELAYS};

/// How often it reports its progress.
const BEAT: Duration = Duration::from_secs(5);

/// The script's orders.
pub(crate) struct Orders {
    relay: PathBuf,
    place: PathBuf,
    cores: String,
    pairs: usize,
    /// How long files and chat go on; a relay dies in the middle.
    mix: Duration,
    /// The largest file, in bytes.
    size: u64,
    /// How many of a hundred clients are behind two relays.
    behind_two: u64,
    seed: u64,
}

impl Orders {
    fn from_env() -> Self {
        let var = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/farm.sh"))
        };
        let number = |name: &str| var(name).parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number"));
        Self {
            relay: var("FARM_RELAY").into(),
            place: var("FARM_PLACE").into(),
            cores: var("FARM_CORES"),
            pairs: number("FARM_PAIRS") as usize,
            mix: Duration::from_secs(number("FARM_SECONDS")),
            size: number("FARM_SIZE_MIB") << 20,
            behind_two: number("FARM_BEHIND_TWO"),
            seed: number("FARM_SEED"),
        }
    }
}

#[test]
#[ignore = "takes minutes: scripts/farm.sh runs it"]
fn a_farm_loses_a_relay_and_only_those_on_it_notice() {
    let orders = Orders::from_env();
    testkit_net::relay::raise_descriptors();
    let began = Instant::now();
    let say = |what: &str| println!("{:5.1} s  {what}", began.elapsed().as_secs_f64());
    let mut farm = Farm::build(&orders);
    say(&format!("{RELAYS} relays listen on port {}, accounts in {}", farm.port, farm.accounts()));

    let mut crowd = Crowd::log_in(&farm, &orders);
    let tally = &Arc::clone(&crowd.shared.stage).tally;
    say(&format!("{} clients have logged in, {} findings", read(&tally.parties_open), tally.findings()));
    let mut verdict = Verdict::default();
    let spread = farm.spread(read(&tally.sessions));
    for line in spread.lines() {
        println!("         {line}");
    }
    let all_used = spread.sessions.iter().all(|cores| cores.iter().sum::<u64>() > 0);
    let ends = read(&tally.parties_open);
    let found = format!("{ends} of {} clients, with {} sessions", 2 * orders.pairs, spread.all());
    verdict.judge("all have logged in", found, ends == 2 * orders.pairs as u64);
    verdict.judge("every relay has sessions", spread.summary(), all_used);

    let idle = Crowd::idle(&farm);
    let costs = crowd.measure(&farm);
    say("Each length of way has been measured");
    let victim = spread.busiest();
    say(&format!("Files and chat for {} s; {} will be killed", orders.mix.as_secs(), farm.name(victim)));
    let touched = crowd.touched_by(victim);
    crowd.set_going();
    let middle = Instant::now() + orders.mix / 2;
    watch(&crowd, &farm, middle, &say);
    let memory = farm.memory();
    crowd.shared.mark_dead(victim);
    farm.kill(victim);
    say(&format!("{} is dead: {touched} of {} pairs were on it", farm.name(victim), orders.pairs));
    watch(&crowd, &farm, middle + orders.mix / 2, &say);
    crowd.shared.stage.ring_down();
    let ended = crowd.wait_for_all();
    say(&format!("{ended} of {} pairs have come to their end", orders.pairs));

    crowd.judge(&mut verdict, touched, ended);
    farm.judge(&mut verdict, victim, crowd.outliving());
    note(&mut verdict, &crowd, &memory, idle, &costs);
    verdict.print();
    println!("The whole took {:.0} s", began.elapsed().as_secs_f64());
    assert!(verdict.is_good(), "the farm has failed");
}

/// Reports the progress until then.
fn watch(crowd: &Crowd, farm: &Farm, until: Instant, say: &impl Fn(&str)) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(BEAT));
        if left <= BEAT {
            return;
        }
        let tally = &crowd.shared.stage.tally;
        say(&format!(
            "{:4} clients  {:5} files  {:6} chat  {:6.2} GB verified  {:4} failure REPORTs  {:3} pairs moved  \
             CPU {:6.1} s  {} found",
            read(&tally.parties_open),
            read(&tally.files),
            read(&tally.chat_messages),
            read(&tally.bytes_verified) as f64 / 1e9,
            read(&tally.failure_reports),
            read(&crowd.shared.moved),
            farm.cpu_seconds(),
            tally.findings(),
        ));
    }
}

fn note(verdict: &mut Verdict, crowd: &Crowd, memory: &str, idle: f64, costs: &[(usize, Cost)]) {
    let tally = &crowd.shared.stage.tally;
    let (files, chat) = (read(&tally.files), read(&tally.chat_messages));
    verdict.note("messages", format!("{files} files, {chat} in chats, {} chunks", read(&tally.chunks)));
    let (failed, good) = (read(&tally.failure_reports), read(&tally.success_reports));
    verdict.note("REPORTs", format!("{failed} of failure, {good} of success"));
    verdict.note("memory before the death", memory.to_owned());
    verdict.note(
        "what nothing costs",
        format!("{idle:.3} CPU seconds of the relays a second, which is in the rest"),
    );
    for (hops, cost) in costs {
        let relays = if *hops == 1 { "relay" } else { "relays" };
        verdict.note("what a way costs", format!("{hops} {relays}: {}", cost.words()));
    }
}
