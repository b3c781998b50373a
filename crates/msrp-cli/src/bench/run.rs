//! What all modes share: tasks on one thread, their cost, and an end for tasks that hang.

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::line::Line;
use super::meter::Meter;
use crate::outcome::{Failure, Report};

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);
/// If nothing moves for so long, something is wrong.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Connections at work.
#[derive(Default)]
pub(crate) struct Tasks {
    running: JoinSet<Result<Line, Failure>>,
    ended: Vec<Line>,
}

impl Tasks {
    /// Begins; must be called within a `LocalSet`.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = Result<Line, Failure>> + 'static) {
        self.running.spawn_local(task);
    }

    /// Waits for all, or for the first that fails. Connections stay as they are.
    pub(crate) async fn join(&mut self) -> Result<(), Failure> {
        while let Some(ended) = self.running.join_next().await {
            let line = ended.map_err(|error| Failure::Engine(error.to_string()))?;
            self.ended.push(line?);
        }
        Ok(())
    }

    /// Closes them; an error while closing changes nothing.
    pub(crate) async fn close(self) {
        let mut closing = JoinSet::new();
        for line in self.ended {
            closing.spawn_local(line.close());
        }
        while closing.join_next().await.is_some() {}
    }
}

/// Runs something to its end, showing its progress; ends it if it does not move.
pub(crate) async fn watch<T>(
    work: impl Future<Output = Result<T, Failure>>,
    amount: impl Fn() -> u64,
    show: impl Fn(u64),
) -> Result<T, Failure> {
    let watching = async {
        let (mut last, mut since) = (amount(), Instant::now());
        loop {
            tokio::time::sleep(TICK).await;
            let now = amount();
            show(now);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > STALL_LIMIT {
                return Err(msrp_client::ClientError::stalled(STALL_LIMIT).into());
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        stalled = watching => stalled,
    }
}

/// A measurement under way.
pub(crate) struct Measure {
    relay: Meter,
    relay_before: Option<Duration>,
    faults_before: Option<u64>,
    own_before: Option<Duration>,
    began: Instant,
}

impl Measure {
    pub(crate) fn begin(relay_pids: &[u32]) -> Result<Self, Failure> {
        let relay = Meter::of(relay_pids)?;
        Ok(Self {
            relay_before: relay.cpu(),
            faults_before: relay.page_faults(),
            own_before: Meter::own().cpu(),
            began: Instant::now(),
            relay,
        })
    }

    /// Page faults of the relay since it was started.
    pub(crate) fn faults(&self) -> Option<u64> {
        self.relay.page_faults()
    }

    pub(crate) fn end(self) -> Measured {
        let spent = |before: Option<Duration>, after: Option<Duration>| after?.checked_sub(before?);
        Measured {
            elapsed: self.began.elapsed(),
            relay: spent(self.relay_before, self.relay.cpu()),
            faults: self.relay.page_faults().zip(self.faults_before).map(|(after, before)| after - before),
            own: spent(self.own_before, Meter::own().cpu()),
        }
    }
}

/// What a measurement took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    relay: Option<Duration>,
    faults: Option<u64>,
    own: Option<Duration>,
}

/// The unit of the CPU time for each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Seconds,
    Micros,
}

impl Measured {
    /// Reports the CPU time of both sides, in all and for each of `amount`.
    pub(crate) fn tell(&self, per: &str, amount: f64, unit: Unit, report: &mut Report) {
        let (scale, unit) = match unit {
            Unit::Seconds => (1.0, "s"),
            Unit::Micros => (1e6, "us"),
        };
        if let Some(faults) = self.faults {
            report.json["relay_page_faults"] = json!(faults);
        }
        for (who, spent) in [("relay", self.relay), ("bench", self.own)] {
            let Some(spent) = spent else {
                continue;
            };
            let seconds = spent.as_secs_f64();
            let each = if amount > 0.0 { seconds * scale / amount } else { 0.0 };
            let percent = 100.0 * seconds / self.elapsed.as_secs_f64().max(1e-9);
            let faults =
                self.faults.filter(|_| who == "relay").map(|faults| format!(", {faults} page faults"));
            let faults = faults.unwrap_or_default();
            report.lines.push(format!(
                "{who} CPU: {seconds:.3} s, {each:.3} {unit} {per}, {percent:.0} % of one core{faults}"
            ));
            report.json[format!("{who}_cpu_seconds")] = json!(seconds);
            report.json[format!("{who}_cpu_{unit}_{}", per.replace(' ', "_"))] = json!(each);
        }
    }
}
