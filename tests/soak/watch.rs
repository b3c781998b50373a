//! The relay's process, seen from outside: memory, descriptors, processor time, log, exit status.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Starting and stopping take no longer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Relay {
    child: Child,
    pub(crate) addresses: Vec<SocketAddr>,
    log: PathBuf,
    ticks_per_second: f64,
}

impl Relay {
    /// Starts `binary` in `place`, where `config.yaml` is; log and pid go there too.
    pub(crate) fn start(binary: &Path, place: &Path) -> Result<Self, String> {
        let (log, ready) = (place.join("relay.log"), place.join("ready"));
        let wrong = |error: std::io::Error| format!("{}: {error}", binary.display());
        let mut command = Command::new(binary);
        command.arg("--config").arg(place.join("config.yaml")).arg("--ready-file").arg(&ready);
        let output = File::create(&log).map_err(wrong)?;
        let child = command.stdin(Stdio::null()).stderr(output).spawn().map_err(wrong)?;
        // For whoever cleans up after us.
        fs::write(place.join("relay.pid"), child.id().to_string()).map_err(wrong)?;
        let ticks = Command::new("getconf").arg("CLK_TCK").output().ok();
        let ticks = ticks.and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
        let mut relay = Self { child, addresses: Vec::new(), log, ticks_per_second: ticks.unwrap_or(100.0) };
        let listening = relay.until("the relay to be ready", |relay| {
            relay
                .child
                .try_wait()
                .map_err(wrong)?
                .map_or(Ok(()), |status| Err(format!("the relay ended: {status}")))?;
            Ok(fs::read_to_string(&ready).ok())
        })?;
        relay.addresses = listening.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(relay)
    }

    fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look(self)? {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                return Err(format!("waited in vain for {what}\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.child.id()))
    }

    /// Memory in use, in KiB; 0 if the process has gone.
    pub(crate) fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
    }

    /// What its memory consists of.
    pub(crate) fn mappings(&self) -> String {
        fs::read_to_string(self.proc("smaps")).unwrap_or_default()
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).map(Iterator::count).unwrap_or_default()
    }

    /// User and system time of all its threads.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap_or_default();
        // Behind the command's name in parentheses.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        ticks / self.ticks_per_second
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM, and how the process ended.
    pub(crate) fn stop(&mut self) -> Result<(ExitStatus, Duration), String> {
        let began = Instant::now();
        let killed = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        killed.map_err(|error| format!("kill: {error}"))?;
        let status = self
            .until("the relay to end", |relay| relay.child.try_wait().map_err(|error| error.to_string()))?;
        Ok((status, began.elapsed()))
    }

    /// SIGKILL: nothing is said any more, neither to clients nor to the log.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
    }
}
