//! `msrp bench` against the real relay: every mode measures something, and finds bytes that were changed on the way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use serde_json::Value;
use testkit_net::account::password;
use testkit_net::bounded;
use testkit_net::process::RelayProcess;
use testkit_net::relay::{HOST, Setup};

const QUIET: &str = "log: {level: error}";

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_msrp"));
    command.arg("bench").args(arguments).arg("--json");
    command
}

fn of_relay(relay: &RelayProcess, arguments: &[&str]) -> Command {
    let address = relay.addresses[0];
    let mut command = bench(arguments);
    command.args(["--relay", &address.to_string(), "--server-name", HOST, "--user", "alice@example.com"]);
    command.args(["--auth-uri", "msrps://example.com;tcp", "--relay-pid", &relay.pid().to_string()]);
    command.arg("--ca").arg(relay.certificate()).env("MSRP_PASSWORD", password("alice"));
    command
}

fn result(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn measured(relay: &RelayProcess, arguments: &[&str]) -> Value {
    let result = result(&of_relay(relay, arguments).output().unwrap());
    assert_eq!(result["ok"], true, "{result}");
    assert!(result["relay_cpu_seconds"].as_f64().unwrap() > 0.0, "{result}");
    assert!(result["bench_cpu_seconds"].as_f64().unwrap() > 0.0, "{result}");
    result
}

#[test]
fn every_mode_measures_a_relay_and_counts_all_that_it_asked_for() {
    bounded(|| {
        let relay = RelayProcess::start(&Setup { more: QUIET, ..Setup::default() });
        let agreed = "TLSv1_3 TLS13_AES_128_GCM_SHA256 X25519";
        for topology in ["one", "both", "dialled"] {
            let (certificate, key) = (relay.certificate(), relay.certificate().with_extension("key"));
            let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
            let mut arguments = vec!["file", "--size", "3M", "--sessions", "2", "--topology", topology];
            if topology == "dialled" {
                arguments.extend(["--certificate", certificate, "--key", key]);
            }
            let result = measured(&relay, &arguments);
            assert_eq!(result["bytes"], 6 << 20, "{result}");
            assert_eq!(result["tls"], agreed, "{result}");
            assert!(result["relay_page_faults_per_GB_in_second_half"].is_number(), "{result}");
        }
        for reports in ["yes", "no"] {
            let chunks = ["file", "--size", "1000000", "--chunk-size", "10000", "--failure-report", reports];
            let result = measured(&relay, &chunks);
            // The relay may cut them, and then there are more.
            assert!(result["chunks"].as_u64().unwrap() >= 100, "{result}");
            assert_eq!(result["answers"], if reports == "yes" { 100 } else { 0 }, "{result}");
        }
        let result = measured(&relay, &["messages", "--count", "50", "--sessions", "2", "--window", "4"]);
        assert_eq!(result["messages"], 100, "{result}");
        assert!(result["delivered_us"]["p99"].as_f64().unwrap() > 0.0, "{result}");
        let result = measured(&relay, &["messages", "--duration", "1s", "--with-files", "1"]);
        assert!(result["bytes_of_files"].as_u64().unwrap() > 0, "{result}");
        let result = measured(&relay, &["auth", "--count", "20", "--concurrency", "3"]);
        assert_eq!((&result["connections"], &result["tls"]), (&20.into(), &agreed.into()), "{result}");
        let result = measured(&relay, &["idle", "--sessions", "20", "--hold", "10ms"]);
        assert_eq!(result["sessions"], 20, "{result}");
        assert!(result["relay_bytes_each"].is_number(), "{result}");
    });
}

#[test]
fn every_mode_measures_a_relay_by_websocket_as_well() {
    bounded(|| {
        let setup = Setup { websocket: &[("127.0.0.1:0", true)], more: QUIET, ..Setup::default() };
        let relay = RelayProcess::start(&setup);
        let web = format!("wss://{}", relay.addresses[2]);
        let measured = |arguments: &[&str]| {
            let mut command = bench(arguments);
            command.args(["--relay", &web, "--server-name", HOST, "--user", "alice@example.com"]);
            command.args(["--auth-uri", "msrps://example.com;ws", "--relay-pid", &relay.pid().to_string()]);
            command.arg("--ca").arg(relay.certificate()).env("MSRP_PASSWORD", password("alice"));
            result(&command.output().unwrap())
        };
        let file = measured(&["file", "--size", "5M", "--sessions", "2", "--topology", "both"]);
        assert_eq!(file["bytes"], 10 << 20, "{file}");
        assert!(file["chunks"].as_u64().unwrap() > 160, "a message has at most 64 KiB: {file}");
        let chunks =
            ["file", "--size", "1000000", "--chunk-size", "10000", "--topology", "both", "--window", "8"];
        assert_eq!(measured(&chunks)["answers"], 100);
        let messages = measured(&["messages", "--count", "50", "--window", "4", "--topology", "both"]);
        assert_eq!(messages["messages"], 50, "{messages}");
        assert_eq!(measured(&["auth", "--count", "20"])["connections"], 20);
        assert_eq!(measured(&["idle", "--sessions", "20", "--hold", "10ms"])["sessions"], 20);
    });
}

/// Carries one connection to `far`, and changes the byte at `spoilt` of what is sent.
fn proxy(far: SocketAddr, spoilt: Option<usize>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(far).unwrap();
        let (from, to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let back = std::thread::spawn(move || carry(from, to, None));
        carry(near, far, spoilt);
        back.join().unwrap();
    });
    (address, thread)
}

fn carry(mut from: TcpStream, mut to: TcpStream, spoilt: Option<usize>) {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if let Some(at) = spoilt.filter(|at| (passed..passed + bytes).contains(at)) {
            buffer[at - passed] ^= 1;
        }
        passed += bytes;
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_byte_that_was_changed_on_the_way_is_found() {
    bounded(|| {
        for spoilt in [None, Some(700_000)] {
            // Free a moment ago; no other test asks for ports of this address.
            let far = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
            let (near, proxy) = proxy(far, spoilt);
            let (near, far) = (near.to_string(), far.to_string());
            let file = ["file", "--size", "1M", "--plain", "--through", &near, "--listen", &far];
            let output = bench(&file).output().unwrap();
            proxy.join().unwrap();
            if spoilt.is_none() {
                assert_eq!(result(&output)["bytes"], 1 << 20);
                continue;
            }
            assert_eq!(output.status.code(), Some(1));
            let result: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(result["ok"], false, "{result}");
            let error = result["error"].as_str().unwrap();
            assert!(error.contains("are not those that were sent"), "{error}");
        }
    });
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_is_connected() {
    let absent =
        ["auth", "--relay", "127.0.0.1:1", "--user", "alice@example.com", "--relay-pid", "4294967295"];
    for (arguments, words) in [
        (&["file"][..], "--relay"),
        (&["file", "--relay", "127.0.0.1:1"], "--user"),
        (&["file", "--through", "127.0.0.1:1", "--listen", "127.0.0.1:0"], "--certificate"),
        (&["messages", "--size", "32", "--relay", "127.0.0.1:1"], "33"),
        (&["file", "--relay", "wss://127.0.0.1:1", "--user", "alice@example.com"], "--topology"),
        (&absent, "4294967295"),
    ] {
        let output = bench(arguments).env("MSRP_PASSWORD", "x").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
}
