//! A machine on which the engine runs slowly, or not at all: calls end, and end as they should.
//!
//! The machine is `tests/slow/slow.c`, loaded into the tool: a thread rests whenever it comes back from `io_uring_enter`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use testkit_net::tool::{Tool, errors, names_in, status};

/// Longer than a call takes on a busy machine; a hanging call takes for ever.
const LIMIT: Duration = Duration::from_secs(90);
/// Longer than glommio's default preemption timer, 1 ms, which this engine replaces.
const SLOW: &str = "1500";
/// For ever.
const STUCK: &str = "1000000000";

/// Compiles the machine.
fn machine(tool: &Tool) -> PathBuf {
    let library = tool.path("slow.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slow/slow.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(compiler.status().unwrap().success(), "what compiles the programs compiles this");
    library
}

/// The tool on such a machine; it becomes one when the file `when` is there.
fn on_machine(tool: &Tool, microseconds: &str, arguments: &[&str]) -> Command {
    let mut command = tool.msrp(arguments);
    command.env("LD_PRELOAD", machine(tool)).env("SLOW_MICROSECONDS", microseconds);
    command.env("SLOW_WHEN", tool.path("when"));
    command
}

fn within_limit<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "{what}: not within the time limit");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The output of a call that ended; ends one that hangs.
fn ended(mut child: Child, what: &str) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("{what} hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Whether the process catches SIGTERM.
fn catches_sigterm(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << 14) != 0)
}

#[test]
fn every_call_on_a_slow_machine_ends() {
    let tool = Tool::new();
    fs::write(tool.path("when"), "").unwrap();
    let content = tool.file("file", 300_000);
    for call in 0..5 {
        let paths = tool.path("path");
        let receive = ["receive", "--listen", "127.0.0.1:0", "--plain", "--out", "in", "--path-file", "path"];
        let receiver = on_machine(&tool, SLOW, &receive).spawn().unwrap();
        let path = within_limit("the receiver's path", || fs::read_to_string(&paths).ok());
        let send = ["send", "file", "--to", path.trim_end(), "--timeout", "60s"];
        let sent = ended(on_machine(&tool, SLOW, &send).spawn().unwrap(), "send");
        assert_eq!((status(&sent), errors(&sent)), (0, String::new()), "call {call}");
        let received = ended(receiver, "receive");
        assert_eq!((status(&received), errors(&received)), (0, String::new()), "call {call}");
        fs::remove_file(paths).unwrap();
    }
    let names = tool.received();
    assert_eq!(names.len(), 5);
    assert!(names.iter().all(|name| fs::read(tool.path("in").join(name)).unwrap() == content));
}

#[test]
fn sigterm_ends_a_call_whose_engine_is_stuck() {
    let tool = Tool::new();
    fs::write(tool.path("when"), "").unwrap();
    let send = ["send", "file", "--to", "msrp://127.0.0.1:9/x;tcp", "--json"];
    tool.file("file", 10);
    let child = on_machine(&tool, STUCK, &send).spawn().unwrap();
    within_limit("the tool to wait for signals", || catches_sigterm(&child).then_some(()));
    signal(&child, "-TERM");
    let output = ended(child, "send");
    assert_eq!((status(&output), errors(&output).as_str()), (130, "msrp: interrupted\n"));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said, serde_json::json!({ "ok": false, "error": "interrupted" }));
}

#[test]
fn an_engine_that_never_begins_is_given_up() {
    let tool = Tool::new();
    fs::write(tool.path("when"), "").unwrap();
    let output = on_machine(&tool, STUCK, &["receive", "--listen", "127.0.0.1:0", "--plain"]).spawn();
    let output = ended(output.unwrap(), "receive");
    assert_eq!((status(&output), errors(&output).as_str()), (1, "msrp: the engine has not begun for 10 s\n"));
}

#[test]
fn timeout_ends_a_call_whose_engine_is_stuck() {
    let tool = Tool::new();
    tool.file("file", 10);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("msrp://{}/x;tcp", silent.local_addr().unwrap());
    let send = ["send", "file", "--to", &path, "--timeout", "3s"];
    let child = on_machine(&tool, STUCK, &send).spawn().unwrap();
    let (mut stream, _) = silent.accept().unwrap();
    // It has sent everything and awaits an answer.
    let mut seen = Vec::new();
    while !seen.ends_with(b"$\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    fs::write(tool.path("when"), "").unwrap();
    let output = ended(child, "send");
    assert_eq!(
        (status(&output), errors(&output).as_str()),
        (1, "msrp: nothing moved on the connection for 3 s\n")
    );
}

/// A receiver that has received half of a file when its engine gets stuck.
fn stuck_in_the_middle(tool: &Tool, more: &[&str]) -> (Child, TcpStream) {
    let receive = ["receive", "--listen", "127.0.0.1:0", "--plain", "--out", "in", "--path-file", "path"];
    let mut command = on_machine(tool, STUCK, &receive);
    let child = command.args(more).stdout(Stdio::null()).spawn().unwrap();
    let path = within_limit("the path", || fs::read_to_string(tool.path("path")).ok());
    let path = path.trim_end();
    let address = path.trim_start_matches("msrp://").split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "MSRP a1b2c3 SEND\r\nTo-Path: {path}\r\nFrom-Path: msrp://127.0.0.1:9/x;tcp\r\nMessage-ID: m\r\n\
         Byte-Range: 1-*/9000000\r\nContent-Type: application/octet-stream\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[7; 700_000]).unwrap();
    within_limit("a temporary file", || (!names_in(&tool.path("in")).is_empty()).then_some(()));
    fs::write(tool.path("when"), "").unwrap();
    // It comes back from a call to the engine once more at least.
    stream.write_all(&[7; 1000]).unwrap();
    (child, stream)
}

#[test]
fn no_temporary_file_is_left_by_a_call_whose_engine_is_stuck() {
    for (more, end) in
        [(&["--timeout", "3s"][..], "msrp: nothing moved on the connection for 3 s\n"), (&[], "")]
    {
        let tool = Tool::new();
        let (child, stream) = stuck_in_the_middle(&tool, more);
        if more.is_empty() {
            signal(&child, "-INT");
        }
        let output = ended(child, "receive");
        let expected = if more.is_empty() { (130, "msrp: interrupted\n") } else { (1, end) };
        assert_eq!((status(&output), errors(&output).as_str()), expected);
        assert_eq!(tool.received(), [""; 0]);
        drop(stream);
    }
}
