//! What the tests share: a directory to work in, processes of the tool, a limit on waiting.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use msrprelay::client::Target;
use msrprelay::proto::uri::MsrpUri;
use sha2::{Digest as _, Sha256};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a file to send, a place to receive, and a certificate.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("in")).unwrap();
        let identity =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        fs::write(directory.path().join("crt"), identity.cert.pem()).unwrap();
        fs::write(directory.path().join("key"), identity.signing_key.serialize_pem()).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of so many octets that do not repeat soon.
    pub(crate) fn file(&self, name: &str, octets: usize) -> Vec<u8> {
        let mut content = Vec::with_capacity(octets + 32);
        let mut block = Sha256::digest(name).to_vec();
        while content.len() < octets {
            block = Sha256::digest(&block).to_vec();
            content.extend_from_slice(&block);
        }
        content.truncate(octets);
        fs::write(self.path(name), &content).unwrap();
        content
    }

    pub(crate) fn msrp(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msrp"));
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("MSRP_PASSWORD");
        command
    }

    /// Starts `msrp receive --listen` on 127.0.0.1 and waits for the path it prints.
    pub(crate) fn receiver(&self, arguments: &[&str]) -> Receiver {
        self.receiver_at("127.0.0.1:0", arguments)
    }

    /// The same on another address.
    pub(crate) fn receiver_at(&self, address: &str, arguments: &[&str]) -> Receiver {
        let mut child = self
            .msrp(&["receive", "--listen", address, "--out", "in", "--timeout", "60s"])
            .args(arguments)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut path = String::new();
        stdout.read_line(&mut path).unwrap();
        Receiver { child, stdout, path: path.trim_end().to_owned() }
    }

    pub(crate) fn send(&self, path: &str, arguments: &[&str]) -> Output {
        self.msrp(&["send", "--to", path]).args(arguments).output().unwrap()
    }

    pub(crate) fn received(&self) -> Vec<String> {
        names_in(&self.path("in"))
    }
}

pub(crate) struct Receiver {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) path: String,
}

impl Receiver {
    /// Exit status, and what it said after the path.
    pub(crate) fn finish(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let output = self.child.wait_with_output().unwrap();
        rest.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), rest)
    }

    /// For receivers that are not going to end by themselves.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn target(&self) -> Target {
        let uri = MsrpUri::parse(self.path.as_bytes()).unwrap();
        Target { host: uri.host_str().to_owned(), port: uri.port().unwrap() }
    }
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends a test whose partner never does what is waited for.
pub(crate) async fn alarm() {
    glommio::timer::sleep(LIMIT).await;
    panic!("nothing came of it within the time limit");
}
