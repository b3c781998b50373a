//! Several relays in a row (RFC 4976, 5.1): what the tool sends through the first one, which answers it accepts, and
//! which relay it names in an error. One scripted peer plays all of them, as the first one would.

use std::fs;
use std::process::Output;

use msrp_client::Endpoint;
use serde_json::Value;

use crate::relays::{AUTH_URI, Granting, answer_auth, expect_auth, response, with_script};
use testkit_net::tool::{Tool, errors, status};

const NEAR: &str = "msrps://near.example:2855/aaa;tcp";
const NEAR_THEN_FAR: &str = "msrps://near.example:2855/aaa;tcp msrps://far.example:2856;tcp";
const TWO_RELAYS: &str = "msrps://near.example:2855/aaa;tcp msrps://far.example:2856/bbb;tcp";

/// Runs the tool behind two relays; the script plays the second one.
fn behind_two(tool: &Tool, command: &[&str], second: impl AsyncFn(&mut Endpoint) + Send + 'static) -> Output {
    fs::write(tool.path("password"), "s3cret\n").unwrap();
    let more = ["--relay", "far.example:2856", "--user", "alice@example.com", "--password-file", "password"];
    let arguments = [command, &more, &["--auth-uri", AUTH_URI]].concat();
    with_script(tool, &arguments, async move |endpoint| {
        answer_auth(endpoint, &Granting::new(AUTH_URI, NEAR)).await;
        second(endpoint).await;
    })
}

fn far(use_path: &'static str) -> Granting {
    Granting::new(NEAR_THEN_FAR, use_path)
}

#[track_caller]
fn assert_refused(output: &Output, words: &str) {
    assert_eq!(status(output), 4, "{}", errors(output));
    assert!(errors(output).contains(words), "{}", errors(output));
}

#[test]
fn each_relay_is_asked_through_those_before_it_and_the_path_is_all_of_them() {
    let tool = Tool::new();
    let output = behind_two(&tool, &["probe", "--json"], async |endpoint| {
        answer_auth(endpoint, &far(TWO_RELAYS)).await;
    });
    assert_eq!(status(&output), 0, "{}", errors(&output));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let auth = &object["auth"];
    assert_eq!(auth["auth_uri"], "msrps://far.example:2856;tcp");
    assert_eq!(auth["relay_proved_itself"], true);
    assert_eq!(auth["use_path"].as_array().unwrap().len(), 2);
    let peers = auth["path_for_peers"].as_str().unwrap();
    let reversed = "msrps://far.example:2856/bbb;tcp msrps://near.example:2855/aaa;tcp msrp://127.0.0.1:";
    assert!(peers.starts_with(reversed), "{peers}");
    let each: Vec<_> =
        object["auth_of_each"].as_array().unwrap().iter().map(|auth| auth["auth_uri"].clone()).collect();
    assert_eq!(each, [AUTH_URI, "msrps://far.example:2856;tcp"]);
}

#[test]
fn three_relays_make_a_path_of_three() {
    let tool = Tool::new();
    fs::write(tool.path("password"), "s3cret\n").unwrap();
    let relays = ["--relay", "far.example:2856", "--relay", "[2001:db8::3]"];
    let user = ["--user", "alice@example.com", "--password-file", "password", "--auth-uri", AUTH_URI];
    let arguments = [&["receive", "--out", "in", "--timeout", "3s"][..], &relays, &user].concat();
    let output = with_script(&tool, &arguments, async |endpoint| {
        answer_auth(endpoint, &Granting::new(AUTH_URI, NEAR)).await;
        answer_auth(endpoint, &far(TWO_RELAYS)).await;
        let outermost = Granting::new(
            "msrps://near.example:2855/aaa;tcp msrps://far.example:2856/bbb;tcp msrps://[2001:db8::3]:2855;tcp",
            "msrps://near.example:2855/aaa;tcp msrps://far.example:2856/bbb;tcp msrps://third.example:1/c;tcp",
        );
        answer_auth(endpoint, &outermost).await;
    });
    assert_eq!(status(&output), 1, "nothing came: {}", errors(&output));
    assert!(errors(&output).contains("the path is good for 600 s"), "{}", errors(&output));
    let path = String::from_utf8_lossy(&output.stdout).into_owned();
    let relays =
        "msrps://third.example:1/c;tcp msrps://far.example:2856/bbb;tcp msrps://near.example:2855/aaa;tcp ";
    assert!(path.starts_with(relays), "{path}");
}

#[test]
fn each_relay_may_know_the_user_by_another_name_and_password() {
    let tool = Tool::new();
    fs::write(tool.path("one"), "s3cret\n").unwrap();
    fs::write(tool.path("two"), "another\n").unwrap();
    let arguments = [
        "probe",
        "--relay",
        "far.example:2856",
        "--user",
        "alice@example.com",
        "--user",
        "wonder@example.net",
        "--password-file",
        "one",
        "--password-file",
        "two",
        "--auth-uri",
        AUTH_URI,
    ];
    let output = with_script(&tool, &arguments, async |endpoint| {
        answer_auth(endpoint, &Granting::new(AUTH_URI, NEAR)).await;
        let second = Granting { user: "wonder", password: "another", ..far(TWO_RELAYS) };
        answer_auth(endpoint, &second).await;
    });
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn a_use_path_that_goes_another_way_is_refused() {
    let tool = Tool::new();
    for (use_path, words) in [
        ("msrps://far.example:2856/bbb;tcp", "does not begin with the relays that lead there"),
        (
            "msrps://near.example:2855/AAA;tcp msrps://far.example:2856/bbb;tcp",
            "does not begin with the relays that lead there",
        ),
        (NEAR, "has no URI of its own behind the relays that lead there"),
    ] {
        let output = behind_two(&tool, &["probe"], async move |endpoint| {
            answer_auth(endpoint, &far(use_path)).await;
        });
        assert_refused(&output, "the answer of far.example:2856 to AUTH cannot be used: its Use-Path");
        assert_refused(&output, words);
    }
}

#[test]
fn the_relay_that_refuses_is_named() {
    let tool = Tool::new();
    let output = behind_two(&tool, &["probe"], async |endpoint| {
        answer_auth(endpoint, &Granting { password: "other", ..far(TWO_RELAYS) }).await;
    });
    assert_refused(&output, "msrp: far.example:2856 refused AUTH: 401 Unauthorized (wrong user or password");

    let output = behind_two(&tool, &["probe"], async |endpoint| {
        let asked = expect_auth(endpoint, NEAR_THEN_FAR).await;
        endpoint.outgoing.send(&response(&asked, NEAR_THEN_FAR, 403, &[])).await.unwrap();
    });
    let hint = "(perhaps it does not accept near.example:2855 as a relay)";
    assert_refused(&output, &format!("msrp: far.example:2856 refused AUTH: 403 Forbidden {hint}"));
}

#[test]
fn the_relay_in_between_that_answers_is_named() {
    let tool = Tool::new();
    let output = behind_two(&tool, &["probe"], async |endpoint| {
        let asked = expect_auth(endpoint, NEAR_THEN_FAR).await;
        endpoint.outgoing.send(&response(&asked, NEAR, 408, &[])).await.unwrap();
    });
    let words = "near.example:2855 refused AUTH to far.example:2856: 408 Request Timeout (it cannot be reached from there)";
    assert_refused(&output, words);
}

#[test]
fn a_further_relay_must_know_the_password_too() {
    let tool = Tool::new();
    let output = behind_two(&tool, &["probe"], async |endpoint| {
        let lying = Granting { proof: Some("00000000000000000000000000000000"), ..far(TWO_RELAYS) };
        answer_auth(endpoint, &lying).await;
    });
    assert_refused(&output, "far.example:2856 to AUTH cannot be used: it does not know the password itself");
}

#[test]
fn users_and_relays_that_do_not_match_are_refused_before_anything_is_sent() {
    let tool = Tool::new();
    let run = |arguments: &[&str]| {
        let output = tool.msrp(arguments).env("MSRP_PASSWORD", "x").output().unwrap();
        assert_eq!(status(&output), 2, "{}", errors(&output));
        errors(&output)
    };
    let three = ["--relay", "a.example", "--relay", "b.example", "--relay", "c.example"];
    let words = run(&[&["probe"][..], &three, &["--user", "a@x.example", "--user", "b@x.example"]].concat());
    assert!(words.contains("2 times --user for 3 --relay: once for all, or once for each"), "{words}");
    let words = run(&[&["probe"][..], &three].concat());
    assert!(words.contains("more than one --relay needs --user"), "{words}");
    let words =
        run(&["bench", "idle", "--user", "a@x.example", "--relay", "a.example", "--relay", "b.example"]);
    assert!(words.contains("one --relay only"), "{words}");
}
