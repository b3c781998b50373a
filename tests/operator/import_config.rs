//! `msrprelay import-config` as an operator uses it, on files as they are in use.
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_msrprelay");

/// A copy of one of the files, with the certificate that it names.
fn place(file: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(file);
    fs::copy(from, place.path().join("config.ini")).unwrap();
    let issued = rcgen::generate_simple_self_signed(vec!["relay.example.com".to_owned()]).unwrap();
    fs::create_dir(place.path().join("tls")).unwrap();
    fs::write(place.path().join("tls/relay.crt"), issued.cert.pem()).unwrap();
    fs::write(place.path().join("tls/relay.key"), issued.signing_key.serialize_pem()).unwrap();
    place
}

fn run(place: &TempDir, arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).current_dir(place.path()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Imports to `config.yaml`; returns it, and what was said.
fn import(place: &TempDir) -> (serde_yaml::Value, String) {
    let output = run(place, &["import-config", "config.ini", "--out", "config.yaml"]);
    let said = text(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty(), "{said}");
    let written = fs::read_to_string(place.path().join("config.yaml")).unwrap();
    (serde_yaml::from_str(&written).unwrap(), said)
}

fn check(place: &TempDir) -> String {
    // Another user may not read this directory.
    let own = fs::metadata("/proc/self").unwrap().uid().to_string();
    let output = run(place, &["check-config", "config.yaml", "--user", &own]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_file_with_everything_in_it_becomes_a_config_that_passes() {
    let place = place("memory.ini");
    let (config, said) = import(&place);
    assert_eq!(said.lines().count(), 1, "nothing to remark: {said}");
    assert_eq!(config["listen"][0]["address"], "192.0.2.10:2856");
    assert_eq!(config["sessions"]["expires_max"], "7200s");
    assert_eq!(config["methods"]["allow_other"], false);
    let users = config["auth"]["memory"]["users"].as_sequence().unwrap();
    let passwords: Vec<_> = users.iter().map(|user| user["password"].as_str().unwrap()).collect();
    assert_eq!(passwords, ["wonder;land #1", "\"quoted: yes\"", "100% sure"]);
    let checked = check(&place);
    for words in ["192.0.2.10:2856 (TLS)", "relay.example.com", "example.com", "3 in memory"] {
        assert!(checked.contains(words), "{checked}");
    }
}

#[test]
fn the_database_becomes_auth_mysql_and_what_has_no_counterpart_is_named() {
    let place = place("mysql.ini");
    let (config, said) = import(&place);
    let mysql = &config["auth"]["mysql"];
    assert_eq!(config["auth"]["backend"], "mysql");
    assert_eq!(mysql["url"], "mysql://msrp:p%40ss%2Fw%3Ard@db.example.net:3307/opensips");
    assert_eq!(mysql["table"], "subscriber_view");
    let columns = ["username_column", "domain_column", "password_column", "ha1_column"];
    assert_eq!(columns.map(|column| mysql[column].as_str().unwrap()), ["name", "realm", "secret", "hash"]);
    assert_eq!(mysql["cleartext_passwords"], false);
    assert_eq!(config["log"]["level"], "info");
    for words in ["Database.uri: its option charset", "Memory: is not carried over"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(check(&place).contains("in MySQL, opensips at db.example.net:3307, table subscriber_view"));
    assert!(!said.contains("p@ss") && !said.contains("p%40ss") && !said.contains("1234"), "{said}");
}

#[test]
fn a_file_without_tls_becomes_a_config_that_passes() {
    let place = place("plain.ini");
    let (config, _) = import(&place);
    assert_eq!(config["hostname"], "127.0.0.1");
    assert!(check(&place).contains("127.0.0.1:2855 (plain)"));
}

#[test]
fn the_other_relays_sample_as_it_is_installed_passes_with_its_files() {
    let place = place("memory.ini");
    let sample = "[Relay]\ncertificate = tls/relay.crt\nkey = tls/relay.key\naddress = 0.0.0.0:2855\nbackend = memory\n\
                  [Memory]\nalice@example.com = 1234\nbob@example.com = 1234\n";
    fs::write(place.path().join("config.ini"), sample).unwrap();
    import(&place);
    assert!(check(&place).contains("2 in memory"));
}

#[test]
fn the_file_is_new_and_its_owners_alone() {
    let place = place("memory.ini");
    import(&place);
    let mode = fs::metadata(place.path().join("config.yaml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(place.path().join("config.yaml"), "mine").unwrap();
    let again = run(&place, &["import-config", "config.ini", "--out", "config.yaml"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("config.yaml: is there already"));
    assert_eq!(fs::read_to_string(place.path().join("config.yaml")).unwrap(), "mine");
}

#[test]
fn passwords_never_reach_the_terminal() {
    for (file, secrets) in [("memory.ini", ["wonder;land", "quoted"]), ("mysql.ini", ["p%40ss", "1234"])] {
        let output = run(&place(file), &["import-config", "config.ini"]);
        assert!(output.status.success());
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(shown.contains("LEFT-OUT"), "{shown}");
        let config: serde_yaml::Value = serde_yaml::from_slice(&output.stdout).unwrap();
        assert!(config["auth"].is_mapping());
    }
}

#[test]
fn every_remark_is_in_the_config_too() {
    let place = place("odd.ini");
    let (_, said) = import(&place);
    let written = fs::read_to_string(place.path().join("config.yaml")).unwrap();
    let comments: String = written.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let comments = squeezed(&comments);
    let remarks: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("config.ini: ")).collect();
    assert_eq!(remarks.len(), 14, "{said}");
    for remark in remarks {
        assert!(comments.contains(&squeezed(remark)), "{remark}\n{written}");
    }
}

#[test]
fn what_is_no_config_of_that_relay_is_refused_in_one_line() {
    let place = place("memory.ini");
    for (file, words) in [("config.yaml.sample", "has no section [Relay]"), ("nothing.ini", "no such file")] {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let output = run(&place, &["import-config", sample.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
