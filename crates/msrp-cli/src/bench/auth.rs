//! `msrp bench auth`: connect, full handshake, AUTH twice, close; again and again.
//!
//! The side that closes first, which is this one, cannot use that port again for a minute. So connections come from
//! several addresses 127.0.0.x, which only loopback gives away freely.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::task::JoinSet;

use super::messages::latencies;
use super::run::{Measure, Unit, watch};
use super::scene::{Common, Scene};
use super::transfer::{Tally, Until, add};
use crate::outcome::{Failure, Report};
use crate::progress::Progress;
use crate::units::parse_duration;

const LATENCY_MAX_NANOS: u64 = 600_000_000_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many connections in all [default: 5000, or as many as go into --duration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// How many at once
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Connect from 127.0.0.1 and so many addresses less one above it; 0 leaves the address to the kernel
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(..=200))]
    addresses: u8,
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let scene = Rc::new(Scene::new(&arguments.common, None)?);
    let count = arguments.count.or_else(|| arguments.duration.is_none().then_some(5000));
    let tally = Rc::new(Tally::default());
    let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_NANOS, 3);
    let took = Rc::new(RefCell::new(histogram.map_err(|error| Failure::Engine(error.to_string()))?));
    let progress = Progress::counting("bench auth", count, arguments.common.output.progress);
    // The first connection pays for what is set up once.
    let (line, _) = scene.client(source(arguments.addresses, 0)).await?;
    let agreed = line.details();
    line.close().await?;
    let measure = Measure::begin(&arguments.common.relay_pid)?;
    let until = Until {
        amount: count,
        time: arguments.duration.map(|duration| Instant::now() + duration),
        ..Until::default()
    };
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.concurrency {
        let (scene, until, tally, took) =
            (Rc::clone(&scene), until.clone(), Rc::clone(&tally), Rc::clone(&took));
        let addresses = arguments.addresses;
        tasks.spawn_local(async move {
            // `answers` counts the connections that have begun.
            while !until.is_over(tally.answers.get()) {
                add(&tally.answers, 1);
                let began = Instant::now();
                let (line, _) = scene.client(source(addresses, tally.answers.get())).await?;
                let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                took.borrow_mut().saturating_record(nanos.max(1));
                line.close().await?;
                add(&tally.count, 1);
            }
            Ok::<_, Failure>(())
        });
    }
    let joined = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Failure::Engine(error.to_string()))??;
        }
        Ok(())
    };
    watch(joined, || tally.count.get(), |count| progress.update(count)).await?;
    let measured = measure.end();
    let connections = tally.count.get();
    progress.finish(connections);
    let seconds = measured.elapsed.as_secs_f64();
    report.lines.push(format!(
        "{connections} times connected, shaken hands, authenticated and closed in {seconds:.2} s ({:.0} a second), {} at once",
        connections as f64 / seconds.max(1e-9),
        arguments.concurrency
    ));
    report.json = json!({
        "mode": "auth",
        "connections": connections,
        "concurrency": arguments.concurrency,
        "seconds": seconds,
        "tls": agreed.map(|details| details.to_string()),
    });
    let (line, json) = latencies("connected to granted", &took.borrow());
    report.lines.push(line);
    report.json["granted_us"] = json;
    measured.tell("each", connections as f64, Unit::Micros, report);
    Ok(())
}

/// The address that the connection with this number comes from.
pub(super) fn source(addresses: u8, number: u64) -> Option<IpAddr> {
    let last = u8::try_from(number.checked_rem(u64::from(addresses))?).ok()? + 1;
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}
