//! The `msrp` tool: a directory to work in, its processes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use msrp_client::Target;
use msrp_proto::uri::MsrpUri;
use sha2::{Digest as _, Sha256};

use crate::process::binary;

/// The tool in a directory: it reads nothing, and all its output is kept.
pub fn msrp(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("msrp"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("MSRP_PASSWORD");
    command
}

/// Writes a certificate that no authority has signed, and its key: what endpoints have.
pub fn self_signed(names: &[&str], certificate: impl AsRef<Path>, key: impl AsRef<Path>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let identity = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(certificate, identity.cert.pem()).unwrap();
    fs::write(key, identity.signing_key.serialize_pem()).unwrap();
}

/// A directory for two ends of the tool, without a relay: files to send, `in` to receive, a certificate (`crt`, `key`).
pub struct Tool {
    pub directory: tempfile::TempDir,
}

impl Default for Tool {
    fn default() -> Self {
        Self::new()
    }
}

impl Tool {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("in")).unwrap();
        self_signed(&["localhost", "127.0.0.1"], path("crt"), path("key"));
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of so many bytes, with a long period.
    pub fn file(&self, name: &str, bytes: usize) -> Vec<u8> {
        let mut content = Vec::with_capacity(bytes + 32);
        let mut block = Sha256::digest(name).to_vec();
        while content.len() < bytes {
            block = Sha256::digest(&block).to_vec();
            content.extend_from_slice(&block);
        }
        content.truncate(bytes);
        fs::write(self.path(name), &content).unwrap();
        content
    }

    pub fn msrp(&self, arguments: &[&str]) -> Command {
        msrp(self.directory.path(), arguments)
    }

    /// Starts `msrp receive --listen` on 127.0.0.1 and waits for the path it prints.
    pub fn receiver(&self, arguments: &[&str]) -> Receiver {
        self.receiver_at("127.0.0.1:0", arguments)
    }

    /// The same on another address.
    pub fn receiver_at(&self, address: &str, arguments: &[&str]) -> Receiver {
        let mut command = self.msrp(&["receive", "--listen", address, "--out", "in", "--timeout", "60s"]);
        Receiver::start(command.args(arguments))
    }

    pub fn send(&self, path: &str, arguments: &[&str]) -> Output {
        self.msrp(&["send", "--to", path]).args(arguments).output().unwrap()
    }

    pub fn received(&self) -> Vec<String> {
        names_in(&self.path("in"))
    }
}

/// A process of the tool that waits for messages; its path is the first line it prints.
pub struct Receiver {
    pub child: Child,
    stdout: BufReader<ChildStdout>,
    pub path: String,
}

impl Receiver {
    /// Waits for its path; that is empty if it ends without one.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut path = String::new();
        stdout.read_line(&mut path).unwrap();
        Self { child, stdout, path: path.trim_end().to_owned() }
    }

    /// Exit status, and the output after the path.
    pub fn finish(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let output = self.child.wait_with_output().unwrap();
        rest.push_str(&errors(&output));
        (status(&output), rest)
    }

    /// For receivers that do not end by themselves.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn target(&self) -> Target {
        let uri = MsrpUri::parse(self.path.as_bytes()).unwrap();
        Target { host: uri.host_str().to_owned(), port: uri.port().unwrap(), web: None }
    }
}

pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
