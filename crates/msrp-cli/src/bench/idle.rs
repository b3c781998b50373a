//! `msrp bench idle`: many authenticated sessions that do nothing, and the memory they take.

use std::fs;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;

use super::auth::source;
use super::meter::Meter;
use super::run::{Measure, Unit, watch};
use super::scene::{Common, Scene};
use super::transfer::{Tally, add};
use crate::outcome::{Failure, Report};
use crate::progress::Progress;
use crate::units::{self, parse_duration};

/// Descriptors for everything except the sessions.
const DESCRIPTORS_BESIDE: u64 = 100;
/// The kernel has some 28,000 ports for connections between two addresses.
const SESSIONS_PER_ADDRESS: u32 = 20_000;
/// How many handshakes at once: their memory must not count as that of idle sessions.
const CONCURRENCY: u32 = 16;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many sessions
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sessions: u32,
    /// How long to hold them once all are there
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    hold: Duration,
    /// Connect from 127.0.0.1 and so many addresses less one above it; 0 leaves the address to the kernel [default: as
    /// many as there are ports for, if the relay is on loopback]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=200))]
    addresses: Option<u8>,
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let sessions = arguments.sessions;
    check_descriptors(u64::from(sessions) + DESCRIPTORS_BESIDE, &arguments.common.relay_pid)?;
    let scene = Rc::new(Scene::new(&arguments.common, None)?);
    let needed = u8::try_from(sessions.div_ceil(SESSIONS_PER_ADDRESS)).unwrap_or(200);
    // The kernel takes one address by itself.
    let addresses = arguments.addresses.unwrap_or(if needed > 1 { needed } else { 0 });
    let (relay, own) = (Meter::of(&arguments.common.relay_pid)?, Meter::own());
    let progress =
        Progress::counting("bench idle", Some(u64::from(sessions)), arguments.common.output.progress);
    // What the first connection sets up for good belongs to no session.
    scene.client(source(addresses, 0)).await?.0.close().await?;
    let (relay_before, own_before) = (relay.resident(), own.resident());
    let setting_up = Measure::begin(&arguments.common.relay_pid)?;
    let tally = Rc::new(Tally::default());
    let mut lines = Vec::new();
    let mut tasks = JoinSet::new();
    for first in 0..CONCURRENCY.min(sessions) {
        let (scene, tally) = (Rc::clone(&scene), Rc::clone(&tally));
        tasks.spawn_local(async move {
            let mut lines = Vec::new();
            for number in (first..sessions).step_by(CONCURRENCY as usize) {
                lines.push(scene.client(source(addresses, u64::from(number))).await?.0);
                add(&tally.count, 1);
            }
            Ok::<_, Failure>(lines)
        });
    }
    let joined = async {
        while let Some(ended) = tasks.join_next().await {
            lines.append(&mut ended.map_err(|error| Failure::Engine(error.to_string()))??);
        }
        Ok(())
    };
    watch(joined, || tally.count.get(), |count| progress.update(count)).await?;
    let set_up = setting_up.end();
    progress.finish(tally.count.get());
    let holding = Measure::begin(&arguments.common.relay_pid)?;
    tokio::time::sleep(arguments.hold).await;
    let held = holding.end();
    let (relay_after, own_after) = (relay.resident(), own.resident());
    let lost = lines.iter_mut().filter_map(|line| (!line.is_alive()).then_some(())).count();
    if lost > 0 {
        return Err(Failure::Engine(format!(
            "{lost} of {sessions} sessions were closed while they were held"
        )));
    }
    report.lines.push(format!(
        "{} held for {:.1} s, all of them alive",
        units::counted(sessions as usize, "session"),
        held.elapsed.as_secs_f64()
    ));
    report.json = json!({ "mode": "idle", "sessions": sessions, "seconds": set_up.elapsed.as_secs_f64() });
    for (who, before, after) in [("relay", relay_before, relay_after), ("bench", own_before, own_after)] {
        if let (Some(before), Some(after)) = (before, after) {
            let each = (after as f64 - before as f64) / f64::from(sessions);
            let (then, now) = (units::size(before), units::size(after));
            report.lines.push(format!("{who} memory: {then} before, {now} now, {each:.0} bytes a session"));
            report.json[format!("{who}_bytes_each")] = json!(each);
            report.json[format!("{who}_resident")] = json!(after);
        }
    }
    set_up.tell("each", f64::from(sessions), Unit::Micros, report);
    report.lines.push("while held:".to_owned());
    let mut idle = Report { lines: Vec::new(), json: json!({}) };
    held.tell("per session", f64::from(sessions), Unit::Micros, &mut idle);
    report.lines.append(&mut idle.lines);
    report.json["held"] = idle.json;
    let mut closing = JoinSet::new();
    for line in lines {
        closing.spawn_local(line.close());
    }
    while closing.join_next().await.is_some() {}
    Ok(())
}

/// Both sides need a descriptor for each session.
fn check_descriptors(needed: u64, relay_pids: &[u32]) -> Result<(), Failure> {
    let ours = rlimit::increase_nofile_limit(needed).map_err(|error| Failure::Engine(error.to_string()))?;
    if ours < needed {
        return Err(Failure::Usage(format!(
            "{needed} open files are needed here, {ours} are allowed: raise the hard limit (`ulimit -Hn {needed}` as root)"
        )));
    }
    for &pid in relay_pids {
        let theirs = open_files_of(pid).unwrap_or(u64::MAX);
        if theirs < needed {
            return Err(Failure::Usage(format!(
                "the relay (process {pid}) may open {theirs} files, {needed} are needed: start it with `ulimit -n {needed}`, \
                 or LimitNOFILE in its systemd unit"
            )));
        }
    }
    Ok(())
}

fn open_files_of(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
