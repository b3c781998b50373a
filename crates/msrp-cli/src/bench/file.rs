//! `msrp bench file`: one long message in each session.

use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_lite::future::try_zip;
use serde_json::json;

use super::line::Line;
use super::run::{Measure, Tasks, Unit, watch};
use super::scene::{Common, PairArguments, Place, Receiver, Scene, Sender};
use super::transfer::{FileReceiver, FileSender, Plan, Tally, Until};
use crate::outcome::{Failure, Report};
use crate::progress::Progress;
use crate::send::Reports;
use crate::units::{self, parse_chunk_size, parse_duration, parse_size};

const EXAMPLES: &str = "\
Examples:
  One giant SEND to a client of the relay, and the relay's CPU time for it:
    msrp bench file --relay localhost:2855 --ca localhost.crt \\
                    --user bench@example.com --password-file pw \\
                    --size 2G --relay-pid 4711
  Both clients behind the relay, chunks of 10 kB, each of them answered:
    msrp bench file … --topology both --chunk-size 10000
  A byte proxy at port 9000 that forwards to port 9001, TLS to TLS:
    msrp bench file --through localhost:9000 --listen 127.0.0.1:9001 \\
                    --certificate localhost.crt --key localhost.key \\
                    --ca localhost.crt";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// How much each session sends [default: 1G, or as much as goes into --duration]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Send chunks of this size [default: one giant SEND]
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_size)]
    chunk_size: Option<u64>,
    /// How many chunks may wait for their answers
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Which answers to ask for
    #[arg(long, value_name = "WHICH", default_value = "yes")]
    failure_report: Reports,
    #[command(flatten)]
    pairs: PairArguments,
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let scene = Rc::new(Scene::new(&arguments.common, Some(&arguments.pairs))?);
    let size = arguments.size.or_else(|| arguments.duration.is_none().then_some(1 << 30));
    let pairs = scene.pairs(&arguments.pairs).await?;
    let agreed = pairs.first().and_then(|(sender, _)| sender.line.details());
    let tally = Rc::new(Tally::default());
    let sessions = u64::from(arguments.pairs.sessions);
    let progress =
        Progress::new("bench file", size.map(|size| size * sessions), arguments.common.output.progress);
    let measure = Measure::begin(&arguments.common.relay_pid)?;
    let plan = Plan {
        until: Until {
            // With a time limit, the size is not fixed.
            amount: size.filter(|_| arguments.duration.is_none()),
            time: arguments.duration.map(|duration| Instant::now() + duration),
            ..Until::default()
        },
        chunk: arguments.chunk_size,
        reports: arguments.failure_report.into(),
        window: arguments.window,
    };
    let mut tasks = Tasks::default();
    spawn(&mut tasks, pairs, &plan, &scene, &tally);
    let half_bytes = plan.until.amount.unwrap_or_default() * sessions / 2;
    tally.half_bytes.set(half_bytes);
    let first_half = async {
        if half_bytes == 0 {
            return Ok(None);
        }
        tally.half_passed.notified().await;
        Ok(Some(FirstHalf { faults: measure.faults(), bytes: tally.bytes.get() }))
    };
    let work = async { Ok(try_zip(first_half, tasks.join()).await?.0) };
    let first_half = watch(work, || tally.bytes.get(), |bytes| progress.update(bytes)).await?;
    let faults = measure.faults();
    let measured = measure.end();
    progress.finish(tally.bytes.get());
    conclude(arguments, &tally, &measured, report);
    if let Some(first_half) = first_half {
        first_half.tell_of_second(faults, tally.bytes.get(), report);
    }
    report.json["tls"] = json!(agreed.map(|details| details.to_string()));
    tasks.close().await;
    Ok(())
}

/// What there was when half of the bytes had arrived. By then buffers have grown to what the load needs: page faults from
/// there on are those of memory that was given back.
struct FirstHalf {
    faults: Option<u64>,
    bytes: u64,
}

impl FirstHalf {
    fn tell_of_second(&self, faults: Option<u64>, bytes: u64, report: &mut Report) {
        let gigabytes = (bytes - self.bytes) as f64 / 1e9;
        if let (Some(faults), Some(before)) = (faults, self.faults)
            && gigabytes > 0.0
        {
            let each = (faults - before) as f64 / gigabytes;
            report.lines.push(format!("page faults in the second half: {each:.0} per GB"));
            report.json["relay_page_faults_per_GB_in_second_half"] = json!(each);
        }
    }
}

/// Starts all pairs.
pub(super) fn spawn(
    tasks: &mut Tasks,
    pairs: Vec<(Sender, Receiver)>,
    plan: &Plan,
    scene: &Rc<Scene>,
    tally: &Rc<Tally>,
) {
    for (sender, receiver) in pairs {
        tasks.spawn(send(sender, plan.clone(), Rc::clone(tally)));
        tasks.spawn(receive(receiver, Rc::clone(scene), Rc::clone(tally)));
    }
}

async fn send(mut sender: Sender, plan: Plan, tally: Rc<Tally>) -> Result<Line, Failure> {
    let mut party = FileSender::new(&sender, plan, tally);
    sender.line.drive(&mut party).await?;
    Ok(sender.line)
}

async fn receive(receiver: Receiver, scene: Rc<Scene>, tally: Rc<Tally>) -> Result<Line, Failure> {
    let mut line = match receiver.at {
        Place::Connected(line) => *line,
        Place::Awaiting(listener) => scene.accept(&listener).await?,
    };
    line.drive(&mut FileReceiver::new(receiver.own_uri, tally)).await?;
    Ok(line)
}

fn conclude(arguments: &Arguments, tally: &Tally, measured: &super::run::Measured, report: &mut Report) {
    let bytes = tally.bytes.get();
    let gigabytes = bytes as f64 / 1e9;
    let chunks = tally.count.get();
    let rate = units::rate(bytes, measured.elapsed);
    let sessions = units::counted(arguments.pairs.sessions as usize, "session");
    let size = units::size(bytes);
    let seconds = measured.elapsed.as_secs_f64();
    report.lines.push(format!(
        "{size} in {seconds:.2} s ({rate}), {}, {sessions}; every byte compared",
        units::counted(usize::try_from(chunks).unwrap_or(usize::MAX), "chunk")
    ));
    report.json = json!({
        "mode": "file",
        "bytes": bytes,
        "chunks": chunks,
        "answers": tally.answers.get(),
        "sessions": arguments.pairs.sessions,
        "seconds": seconds,
        "megabytes_per_second": units::megabytes_per_second(bytes, measured.elapsed),
    });
    measured.tell("per GB", gigabytes, Unit::Seconds, report);
    if arguments.chunk_size.is_some() {
        measured.tell("per chunk", chunks as f64, Unit::Micros, report);
    }
}
