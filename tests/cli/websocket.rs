//! `msrp` by WebSocket: `--relay wss://...` (RFC 7977).

use std::fs;

use testkit_net::account::password;
use testkit_net::bounded;
use testkit_net::relay::{HOST, Setup, TestRelay};
use testkit_net::tool::{Receiver, Tool, errors, status};

/// A relay, and a tool that knows its certificate and the passwords.
fn both() -> (TestRelay, Tool) {
    let relay = TestRelay::with(&Setup { websocket: &[("127.0.0.1:0", true)], ..Setup::default() });
    let tool = Tool::new();
    for user in ["alice", "bob"] {
        fs::write(tool.path(user), password(user)).unwrap();
    }
    (relay, tool)
}

/// The options by which a user comes to a relay.
fn options(relay: &TestRelay, at: &str, user: &str) -> Vec<String> {
    let transport = if at.starts_with("wss") { "ws" } else { "tcp" };
    let uri = format!("msrps://example.com;{transport}");
    let account = format!("{user}@example.com");
    let ca = relay.file("relay.crt").display().to_string();
    [
        "--relay",
        at,
        "--user",
        &account,
        "--password-file",
        user,
        "--auth-uri",
        &uri,
        "--ca",
        &ca,
        "--server-name",
        HOST,
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn files_arrive_whichever_end_comes_by_websocket() {
    bounded(|| {
        let (relay, tool) = both();
        let (web, tcp) = (format!("wss://{}", relay.websocket()), relay.tls.to_string());
        for (n, (from, to)) in [(&web, &tcp), (&tcp, &web), (&web, &web)].into_iter().enumerate() {
            let name = format!("file{n}.bin");
            let content = tool.file(&name, 3_000_000);
            let mut receive = tool.msrp(&["receive", "--out", "in", "--timeout", "60s"]);
            let receiver = Receiver::start(receive.args(options(&relay, to, "bob")));
            let sent = tool
                .msrp(&["send", "--to", &receiver.path, &name])
                .args(options(&relay, from, "alice"))
                .output();
            let sent = sent.unwrap();
            assert_eq!(status(&sent), 0, "{from} {to}: {}", errors(&sent));
            let (code, said) = receiver.finish();
            assert_eq!(code, 0, "{from} {to}: {said}");
            assert!(said.contains("SHA-256 verified"), "{said}");
            assert_eq!(fs::read(tool.path("in").join(&name)).unwrap(), content);
        }
    });
}

#[test]
fn probe_logs_in_by_websocket() {
    bounded(|| {
        let (relay, tool) = both();
        let web = format!("wss://{}", relay.websocket());
        let probed = tool.msrp(&["probe"]).args(options(&relay, &web, "alice")).output().unwrap();
        assert_eq!(status(&probed), 0, "{}", errors(&probed));
    });
}

#[test]
fn relay_that_does_not_upgrade_is_told_of_in_its_own_words() {
    bounded(|| {
        let (relay, tool) = both();
        let web = format!("wss://{}/other", relay.websocket());
        let probed = tool.msrp(&["probe"]).args(options(&relay, &web, "alice")).output().unwrap();
        assert_ne!(status(&probed), 0);
        let said = errors(&probed) + &String::from_utf8_lossy(&probed.stdout);
        assert!(said.contains("404") && said.contains("websocket.path"), "{said}");
    });
}
