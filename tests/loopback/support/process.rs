//! The real binary, in a directory of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::endpoint::Endpoint;
use super::relay::{Setup, raise_descriptors, trusting};
use super::until;

/// Where cargo has put the server.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_msrprelay");

/// A relay in a process of its own, which ends with the test.
pub(crate) struct RelayProcess {
    child: Child,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) client: Arc<ClientConfig>,
    place: TempDir,
}

impl RelayProcess {
    pub(crate) fn start(setup: &Setup) -> Self {
        let place = tempfile::tempdir().unwrap();
        let text = setup.write(place.path());
        let client = Arc::new(trusting(place.path()));
        Self::of(place, &text, client)
    }

    /// With a config, which may name files of this directory, and what its clients must trust.
    pub(crate) fn of(place: TempDir, config_text: &str, client: Arc<ClientConfig>) -> Self {
        raise_descriptors();
        let config = place.path().join("config.yaml");
        fs::write(&config, config_text).unwrap();
        let ready = place.path().join("ready");
        let log = File::create(place.path().join("log")).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(config).arg("--ready-file").arg(&ready);
        let mut child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let addresses = until("the relay to be ready", || {
            let ended = child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", log_of(place.path()));
            fs::read_to_string(&ready).ok()
        });
        let addresses = addresses.lines().map(|line| line.parse().unwrap()).collect();
        Self { child, addresses, client, place }
    }

    /// The certificate that its clients must trust.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.place.path().join("relay.crt")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection that has not authenticated.
    pub(crate) fn stranger(&self, name: &str) -> Endpoint {
        Endpoint::tls(self.addresses[0], &self.trusted(), name)
    }

    /// A client with a session.
    pub(crate) fn client(&self, user: &str) -> Endpoint {
        self.stranger(user).log_in(user, self.addresses[0].port())
    }

    /// A client with little room in its kernel, so that it is the relay who must hold what waits.
    pub(crate) fn narrow_client(&self, user: &str) -> Endpoint {
        let address = self.addresses[0];
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.set_send_buffer_size(16 << 10).unwrap();
        socket.set_tcp_mss(1400).unwrap();
        socket.connect(&address.into()).unwrap();
        Endpoint::over(socket.into(), &self.client, user).log_in(user, address.port())
    }

    /// Memory in use, in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.resident()().unwrap()
    }

    /// Tells the memory in use, in KiB, as long as there is a process, for another thread to look.
    pub(crate) fn resident(&self) -> impl Fn() -> Option<u64> + Send + 'static {
        let status = self.proc("status");
        move || {
            let status = fs::read_to_string(&status).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        }
    }

    /// Descriptors it holds open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.child.id()))
    }

    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// The same where it may have ended.
    pub(crate) fn signal_if_there(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(self.child.id().to_string()).stderr(Stdio::null());
        let _ = kill.status();
    }

    /// Whether it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What a client needs to trust the certificate that is there now.
    pub(crate) fn trusted(&self) -> Arc<ClientConfig> {
        Arc::new(trusting(self.place.path()))
    }

    /// Another config, and a certificate made anew.
    pub(crate) fn rewrite(&self, setup: &Setup) {
        fs::write(self.place.path().join("config.yaml"), setup.write(self.place.path())).unwrap();
    }

    /// Has it read its config again, and waits until it has said what it makes of it.
    #[track_caller]
    pub(crate) fn reload(&self, verdict: &str) {
        let said = self.log().matches(verdict).count();
        self.signal("HUP");
        until(verdict, || (self.log().matches(verdict).count() > said).then_some(()));
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the relay to end", || self.child.try_wait().unwrap())
    }

    /// What it has written to standard error.
    pub(crate) fn log(&self) -> String {
        log_of(self.place.path())
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(place: &Path) -> String {
    fs::read_to_string(place.join("log")).unwrap_or_default()
}
