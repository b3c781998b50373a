#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use super::*;

fn imported(text: &str) -> Imported {
    import(text, Path::new("/somewhere/else")).unwrap()
}

fn yaml(text: &str) -> serde_yaml::Value {
    let text = imported(text).yaml("config.ini", Secrets::Written);
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn keys(text: &str) -> Vec<String> {
    imported(text).notes.into_iter().map(|note| note.key).collect()
}

const TLS: &str = "[Relay]\ncertificate = a.crt\nkey = a.key\nbackend = memory\n";

#[test]
fn what_the_file_does_not_say_is_the_other_relays_default() {
    let config = yaml(TLS);
    assert_eq!(config["listen"][0]["address"], "0.0.0.0:2855");
    assert_eq!(config["listen"][0]["tls"], true);
    assert_eq!(config["auth"]["challenge_lifetime"], "15s");
    assert_eq!(config["auth"]["max_attempts"], 3);
    assert_eq!(config["auth"]["log_failures"], false);
    assert_eq!(config["sessions"]["expires_min"], "60s");
    assert_eq!(config["sessions"]["expires_default"], "600s");
    assert_eq!(config["sessions"]["expires_max"], "3600s");
    assert_eq!(config["methods"]["allow_other"], true);
    let database = yaml("[Relay]\ncertificate = a\nkey = b\n[Database]\nuri = mysql://u:p@db/opensips\n");
    assert_eq!(database["auth"]["backend"], "mysql");
    assert_eq!(database["auth"]["mysql"]["cleartext_passwords"], true);
    assert_eq!(database["auth"]["mysql"]["table"], "subscriber");
    assert!(imported(TLS).notes.is_empty());
}

#[test]
fn a_relative_path_begins_beside_the_file_or_in_the_system_directory() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a.crt"), "").unwrap();
    let text = import(TLS, place.path()).unwrap().yaml("config.ini", Secrets::Written);
    let config: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(config["tls"]["certificate"], place.path().join("a.crt").to_str().unwrap());
    assert_eq!(config["tls"]["key"], "/etc/msrprelay/a.key");
}

#[test]
fn whatever_stands_in_a_password_arrives() {
    let passwords = [
        "plain",
        "a b",
        "#1;2",
        "\"quoted\"",
        "back\\slash",
        "tab\there",
        "ключ",
        "- x",
        "{a: b}",
        "0123",
        "@",
        "y",
    ];
    for password in passwords {
        let config = yaml(&format!("{TLS}[Memory]\nalice@example.com = {password}\n"));
        assert_eq!(config["auth"]["memory"]["users"][0]["password"], password);
    }
    assert_eq!(
        yaml(&format!("{TLS}[Memory]\na@b.com = 100%%\n"))["auth"]["memory"]["users"][0]["password"],
        "100%"
    );
}

#[test]
fn the_databases_url_is_taken_apart_and_put_together_again() {
    let of = |uri: &str| {
        let text = format!("[Relay]\ncertificate = a\nkey = b\n[Database]\nuri = {uri}\n");
        let auth = &yaml(&text)["auth"];
        auth[auth["backend"].as_str().unwrap()]["url"].as_str().map(str::to_owned)
    };
    let same = [
        "mysql://u:p@db/opensips",
        "mysql://u@db:3307/x",
        "mysql://db/x",
        "mysql://u:p@[2001:db8::1]:3306/x",
        "postgres://u:p@db/opensips",
        "postgres://u:p@db:5433/x",
        "postgres://u:p@db/x?sslmode=verify-full",
    ];
    for uri in same {
        assert_eq!(of(uri).as_deref(), Some(uri));
    }
    let changed = [
        ("mysql://u:a@b@db/x", "mysql://u:a%40b@db/x"),
        ("mysql://u:a:b@db/x", "mysql://u:a%3Ab@db/x"),
        ("mysql://u:%%70%%2f@db/x", "mysql://u:p%2F@db/x"),
        ("MySQL://u:p@/x", "mysql://u:p@localhost/x"),
        ("mysql://u:p@db/x?unix_socket=/run/my.sock&debug=1", "mysql://u:p@db/x?socket=/run/my.sock"),
        ("postgresql://u:p@db/x", "postgres://u:p@db/x"),
        ("psycopg2://u:a@b@db/x?sslmode=prefer&charset=utf8", "postgres://u:a%40b@db/x"),
        ("postgres://u:p@/x?host=/run/postgresql", "postgres://u:p@localhost/x?host=/run/postgresql"),
    ];
    for (uri, url) in changed {
        assert_eq!(of(uri).as_deref(), Some(url), "{uri}");
    }
    for uri in [
        "mysql://u:p@db",
        "mysql:u:p",
        "mysql://u:p@db:x/y",
        "postgres://u:p@db",
        "sqlite:///x.db",
        "nonsense",
        "",
    ] {
        assert_eq!(of(uri), None, "{uri}");
    }
}

#[test]
fn no_note_no_debug_and_no_look_at_it_shows_a_secret() {
    let files = [
        "[Relay]\n[Database]\nuri = mysql://u:hushhush@localhost/x?charset=utf8&passwd=hushhush\n",
        "[Relay]\n[Database]\nuri = mysql:/u:hushhush@localhost\n",
        "[Relay]\n[Database]\nuri = postgres://u:hushhush@db/x\n",
        "[Relay]\nbackend = memory\n[Memory]\na@example.com = hushhush\na@EXAMPLE.com = hushhush\nb = hushhush\n",
        "[Relay]\nbackend = sipthor\n[Memory]\na@example.com = hushhush\n[Database]\nuri = mysql://u:hushhush@db/x\n",
        "[Relay]\nbackend = memory\n[Memroy]\na@example.com = hushhush\n",
    ];
    for text in files {
        let imported = imported(text);
        assert!(!imported.notes.is_empty());
        let shown = format!("{imported:?}\n{}", imported.yaml("config.ini", Secrets::LeftOut));
        assert!(!shown.contains("hush"), "{shown}");
        assert!(!File::parse(text).is_ok_and(|file| format!("{file:?}").contains("hush")));
    }
}

#[test]
fn keys_of_the_sipthor_backend_are_said_to_have_no_counterpart() {
    let text = "[Relay]\nbackend = sipthor\n[SIPThor]\nuri = mysql://u:p@db/x\n[ThorNetwork]\ndomain = d\n[Other]\nx = 1\n";
    let notes = imported(text).notes;
    let said =
        |key: &str| notes.iter().find(|note| note.key == key).map(|note| note.message.clone()).unwrap();
    for key in ["SIPThor.uri", "ThorNetwork.domain"] {
        assert!(said(key).contains("no counterpart here"), "{notes:?}");
        assert!(!said(key).contains("is not a key"), "{notes:?}");
    }
    assert!(said("Other.x").contains("is not a key"), "{notes:?}");
}

#[test]
fn every_key_is_carried_over_or_named() {
    let odd = include_str!("../../../tests/data/import/odd.ini");
    let expected = [
        "Relay.address",
        "Relay.hostname",
        "Relay.key",
        "Relay.auth_challenge_expiration_time",
        "Relay.max_auth_attempts",
        "Relay.session_expiration_time_default",
        "Relay.allow_other_methods",
        "Relay.log_level",
        "Memory.alice",
        "Memory.bob@example.com",
        "Memory.carol@example..com",
        "Memory.dave@example.com",
        "Relay.thread_pool",
        "Network.interface",
    ];
    assert_eq!(keys(odd), expected);
    // Values that the other relay uses have the same effect here.
    let config = yaml(odd);
    assert_eq!(config["auth"]["log_failures"], true);
    assert_eq!(config["auth"]["max_attempts"], 1);
    assert_eq!(config["auth"]["challenge_lifetime"], "15s");
    assert_eq!(config["sessions"]["expires_default"], "700s");
    assert_eq!(config["auth"]["memory"]["users"][0]["password"], "2");
    assert_eq!(config["log"]["level"], "error");
}

#[test]
fn a_line_in_the_file_cannot_become_a_line_of_the_config() {
    let text = format!("{TLS}x\u{2028}y = 1\n[Memory]\na\\nb = 1\n");
    let imported = import(&text, Path::new("/")).unwrap();
    for line in imported.yaml("odd\nname: here", Secrets::Written).lines() {
        let harmless = line.is_empty() || line.trim_start().starts_with('#');
        let known = ["listen:", "tls:", "auth:", "sessions:", "methods:", "log:", "  "];
        assert!(harmless || known.iter().any(|start| line.starts_with(start)), "{line}");
    }
}

#[test]
fn another_programs_file_and_no_ini_file_are_refused() {
    assert!(matches!(import("[Other]\na = b\n", Path::new("/")), Err(ImportError::NotThatRelay)));
    assert!(matches!(import("", Path::new("/")), Err(ImportError::NotThatRelay)));
    assert!(matches!(
        import("[Relay]\nhushhush\n", Path::new("/")),
        Err(ImportError::NotIni { line: 2.., .. })
    ));
    let error = import("[Relay]\nkey = a\nhushhush\n", Path::new("/")).unwrap_err().to_string();
    assert!(!error.contains("hush"), "{error}");
}
