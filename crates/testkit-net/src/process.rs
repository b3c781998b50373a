//! The real server in a process of its own, seen from outside: memory, descriptors, CPU time, log, exit status.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::endpoint::Endpoint;
use crate::relay::{Setup, raise_descriptors, trusting};
use crate::until;

/// Where cargo has put a program of this package: beside the directory of the running test. Cargo tells a test the
/// place at compile time, but not a library.
pub(crate) fn binary(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().nth(2).unwrap().join(name);
    assert!(found.exists(), "{} is not there: cargo builds it for the tests of its package", found.display());
    found.to_str().unwrap().to_owned()
}

/// The server.
pub fn relay_binary() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| binary("msrprelay"));
    &PATH
}

/// Whether the tests have root's rights.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Cargo's target directory.
pub(crate) fn target_directory() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// A server's process, which ends with the test.
pub struct Process {
    child: Child,
    pub addresses: Vec<SocketAddr>,
    place: PathBuf,
}

impl Process {
    /// Starts `binary` in `place`, where `config.yaml` is, and waits until it is ready. Its log (`relay.log`) and its
    /// process id (`relay.pid`, for a script that cleans up) go there too.
    #[track_caller]
    pub fn start(binary: impl AsRef<Path>, place: &Path) -> Self {
        raise_descriptors();
        let ready = place.join("ready");
        let log = File::create(place.join("relay.log")).unwrap();
        let mut command = Command::new(binary.as_ref());
        command.arg("--config").arg(place.join("config.yaml")).arg("--ready-file").arg(&ready);
        let child = command.stdin(Stdio::null()).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", binary.as_ref().display()));
        fs::write(place.join("relay.pid"), child.id().to_string()).unwrap();
        let mut process = Self { child, addresses: Vec::new(), place: place.to_owned() };
        let addresses = until("the relay to be ready", || {
            assert_eq!(process.ended(), None, "{}", process.log());
            fs::read_to_string(&ready).ok()
        });
        process.addresses = addresses.lines().map(|line| line.parse().unwrap()).collect();
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory in use, in KiB; 0 if the process has gone.
    pub fn rss_kib(&self) -> u64 {
        self.resident()().unwrap_or_default()
    }

    /// The memory in use, in KiB, while the process lives, for another thread.
    pub fn resident(&self) -> impl Fn() -> Option<u64> + Send + 'static {
        let status = self.proc("status");
        move || {
            let status = fs::read_to_string(&status).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        }
    }

    /// What its memory consists of.
    pub fn mappings(&self) -> String {
        fs::read_to_string(self.proc("smaps")).unwrap_or_default()
    }

    /// Descriptors it holds open; 0 if the process has ended.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).map(Iterator::count).unwrap_or_default()
    }

    /// User and system time of all its threads.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap_or_default();
        // After the command's name in parentheses.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        let each = Command::new("getconf").arg("CLK_TCK").output().ok();
        let each = each.and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
        ticks / each.unwrap_or(100.0)
    }

    fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.child.id()))
    }

    /// Sends a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// The same for a process that may have ended.
    pub fn signal_if_there(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(self.child.id().to_string()).stderr(Stdio::null());
        let _ = kill.status();
    }

    /// Whether it has, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        until("the relay to end", || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and how the process ended within `patience`.
    pub fn stop(&mut self, patience: Duration) -> Result<(ExitStatus, Duration), String> {
        let began = Instant::now();
        self.signal_if_there("TERM");
        while began.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Ok((status, began.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("waited in vain for the relay to end\n{}", self.log()))
    }

    /// SIGKILL: the process tells nothing more, neither its clients nor the log.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Makes it read its config again, and waits for its verdict.
    #[track_caller]
    pub fn reload(&self, verdict: &str) {
        let said = self.log().matches(verdict).count();
        self.signal("HUP");
        until(verdict, || (self.log().matches(verdict).count() > said).then_some(()));
    }

    /// Waits until a line of the log has these words: a line takes its time from the relay to the test.
    #[track_caller]
    pub fn logs(&self, words: &str) {
        until(words, || self.log().contains(words).then_some(()));
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.join("relay.log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A relay with throw-away certificates in a process and a directory of its own, and its clients. It dereferences to
/// its [`Process`].
pub struct RelayProcess {
    process: Process,
    pub client: Arc<ClientConfig>,
    /// Which of the addresses is the first that speaks WebSocket, if one does.
    websocket: usize,
    place: TempDir,
}

impl Deref for RelayProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for RelayProcess {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl RelayProcess {
    pub fn start(setup: &Setup) -> Self {
        Self::start_program(relay_binary().as_ref(), setup)
    }

    /// The same with another build of the relay.
    pub fn start_program(program: &Path, setup: &Setup) -> Self {
        let place = tempfile::tempdir().unwrap();
        let text = setup.write(place.path());
        let client = Arc::new(trusting(place.path()));
        Self { websocket: setup.listen.len(), ..Self::run(program, place, &text, client) }
    }

    /// With a config, which may name files of this directory, and what its clients must trust.
    pub fn of(place: TempDir, config_text: &str, client: Arc<ClientConfig>) -> Self {
        Self::run(relay_binary().as_ref(), place, config_text, client)
    }

    fn run(program: &Path, place: TempDir, config_text: &str, client: Arc<ClientConfig>) -> Self {
        fs::write(place.path().join("config.yaml"), config_text).unwrap();
        let process = Process::start(program, place.path());
        Self { process, client, websocket: 0, place }
    }

    /// The certificate that its clients must trust.
    pub fn certificate(&self) -> PathBuf {
        self.place.path().join("relay.crt")
    }

    /// A connection that has not authenticated.
    pub fn stranger(&self, name: &str) -> Endpoint {
        Endpoint::tls(self.addresses[0], &self.trusted(), name)
    }

    /// A client with a session.
    pub fn client(&self, user: &str) -> Endpoint {
        self.stranger(user).log_in(user, self.addresses[0].port())
    }

    /// The first listener that speaks WebSocket.
    pub fn websocket(&self) -> SocketAddr {
        self.addresses[self.websocket]
    }

    /// A client with a session by WebSocket.
    #[track_caller]
    pub fn web_client(&self, user: &str) -> Endpoint {
        Endpoint::wss(self.websocket(), &self.trusted(), user).log_in(user, 443)
    }

    /// A client with small buffers in its kernel, so that the relay must hold what waits.
    pub fn narrow_client(&self, user: &str) -> Endpoint {
        let address = self.addresses[0];
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.set_send_buffer_size(16 << 10).unwrap();
        socket.set_tcp_mss(1400).unwrap();
        socket.connect(&address.into()).unwrap();
        Endpoint::over(socket.into(), &self.client, user).log_in(user, address.port())
    }

    /// What a client needs to trust the present certificate.
    pub fn trusted(&self) -> Arc<ClientConfig> {
        Arc::new(trusting(self.place.path()))
    }

    /// Another config, and a certificate made anew.
    pub fn rewrite(&self, setup: &Setup) {
        fs::write(self.place.path().join("config.yaml"), setup.write(self.place.path())).unwrap();
    }
}
