//! The config as an operator would have written it.

use super::accounts::{Accounts, Database, LEFT_OUT, User};
use super::outcome::{Note, Secrets};
use super::relay::{LogLevel, Relay};

/// A comment line is broken before it gets longer than this.
const COLUMNS: usize = 100;

pub(super) fn write(
    relay: &Relay,
    accounts: &Accounts,
    notes: &[Note],
    origin: &str,
    secrets: Secrets,
) -> String {
    let mut page = Page::default();
    head(&mut page, notes, origin, secrets == Secrets::LeftOut && accounts.hold_secrets());
    listen(&mut page, relay);
    tls(&mut page, relay);
    auth(&mut page, relay, accounts, secrets);
    sessions(&mut page, relay);
    page.gap();
    page.comment("Methods besides SEND, REPORT and NICKNAME (allow_other_methods).");
    page.line("methods:");
    page.line(&format!("  allow_other: {}", relay.allow_other));
    outbound(&mut page);
    page.gap();
    match relay.log_level {
        LogLevel::Said(_) => page.comment("log_level."),
        LogLevel::Unsaid => page.comment(
            "log_level was not set, which made the other relay log everything; that would be debug here.",
        ),
    }
    let level = if let LogLevel::Said(level) = relay.log_level { level } else { "info" };
    page.line("log:");
    page.line(&format!("  level: {level}"));
    page.text
}

fn head(page: &mut Page, notes: &[Note], origin: &str, left_out: bool) {
    page.comment(&format!(
        "Made by msrprelay import-config from {origin}. config.yaml.sample explains every key, docs/operate/migration.md what \
         is different from the relay that this came from."
    ));
    if left_out {
        page.comment("");
        page.comment(&format!(
            "{LEFT_OUT} stands where passwords belong: import-config --out FILE writes them."
        ));
    }
    page.comment("");
    if notes.is_empty() {
        page.comment("Everything in that file was carried over.");
        return;
    }
    page.comment("Not carried over as it stood:");
    for note in notes {
        page.item(&note.to_string());
    }
}

fn listen(page: &mut Page, relay: &Relay) {
    page.gap();
    page.comment(match relay.tls {
        true => "address.",
        false => "address, and debug_notls: plain TCP, for debugging only.",
    });
    page.line("listen:");
    page.line(&format!("  - {{address: {}, tls: {}}}", quoted(&relay.address.to_string()), relay.tls));
    page.gap();
    page.comment("hostname: the relay's own name in the URIs that it hands out.");
    match &relay.hostname {
        Some(hostname) => page.line(&format!("hostname: {}", quoted(hostname))),
        None if relay.tls => {
            page.comment("Not set: the first DNS name of the certificate, as before.");
            page.line("#hostname: relay.example.com");
        }
        None => {
            page.comment("REQUIRED without a certificate: write it.");
            page.line("#hostname: relay.example.com");
        }
    }
    page.gap();
    page.comment("default_domain: the realm and the domain of every account.");
    match &relay.realm {
        Some(realm) => page.line(&format!("realm: {}", quoted(realm))),
        None => {
            page.comment("Not set: the host name in the client's AUTH, as before.");
            page.line("#realm: example.com");
        }
    }
}

fn tls(page: &mut Page, relay: &Relay) {
    if relay.certificate.is_none() && relay.key.is_none() {
        return;
    }
    page.gap();
    page.comment(
        "certificate, key. The key must be readable by the user that the relay runs as, and by no other user.",
    );
    page.line("tls:");
    for (key, path) in [("certificate", &relay.certificate), ("key", &relay.key)] {
        if let Some(path) = path {
            page.line(&format!("  {key}: {}", quoted(&path.display().to_string())));
        }
    }
}

fn auth(page: &mut Page, relay: &Relay, accounts: &Accounts, secrets: Secrets) {
    page.gap();
    page.comment("backend, and who may use the relay.");
    page.line("auth:");
    let backend = if let Accounts::Database(database) = accounts { database.backend } else { "memory" };
    page.line(&format!("  backend: {backend}"));
    page.line("  # auth_challenge_expiration_time, max_auth_attempts, log_failed_auth.");
    page.line(&format!("  challenge_lifetime: {}s", relay.challenge_seconds));
    page.line(&format!("  max_attempts: {}", relay.max_attempts));
    page.line(&format!("  log_failures: {}", relay.log_failures));
    if !relay.tls {
        page.line(
            "  # debug_notls: without this no client could authenticate over plain TCP. For tests only.",
        );
        page.line("  insecure_plain: true");
    }
    match accounts {
        Accounts::Memory(users) => memory(page, users, secrets),
        Accounts::Database(found) => database(page, found, secrets),
        Accounts::Nowhere => memory(page, &[], secrets),
    }
}

fn memory(page: &mut Page, users: &[User], secrets: Secrets) {
    page.line("  memory:");
    if users.is_empty() {
        return page.line("    users: []");
    }
    page.line("    # A hash instead of each password: `ha1`, see config.yaml.sample.");
    page.line("    users:");
    for user in users {
        let (name, password) = (quoted(&user.name), quoted(user.password(secrets)));
        page.line(&format!("      - {{user: {name}, password: {password}}}"));
    }
}

fn database(page: &mut Page, database: &Database, secrets: Secrets) {
    page.line("  # Database: uri, subscriber_table, username_col, domain_col, cleartext_passwords, password_col, ha1_col.");
    page.line(&format!("  {}:", database.backend));
    page.line(&format!("    url: {}", quoted(&database.url(secrets))));
    page.line(&format!("    table: {}", quoted(&database.table)));
    page.line(&format!("    username_column: {}", quoted(&database.username)));
    page.line(&format!("    domain_column: {}", quoted(&database.domain)));
    page.line(&format!("    cleartext_passwords: {}", database.cleartext));
    page.line(&format!("    password_column: {}", quoted(&database.password)));
    page.line(&format!("    ha1_column: {}", quoted(&database.ha1)));
}

fn sessions(page: &mut Page, relay: &Relay) {
    page.gap();
    page.comment(
        "session_expiration_time_minimum, _default, _maximum. A client that asks for Expires is held to it here; the \
         other relay answered with it and never ended a session. A session without Expires lasts as long as its connection.",
    );
    page.line("sessions:");
    page.line(&format!("  expires_min: {}s", relay.expires.min));
    page.line(&format!("  expires_default: {}s", relay.expires.default));
    page.line(&format!("  expires_max: {}s", relay.expires.max));
}

fn outbound(page: &mut Page) {
    page.gap();
    page.comment(
        "The other relay connected to whatever a client named. This one refuses private addresses, plain `msrp:` next \
         hops and ports below 1024, and checks the certificates of relays. What your clients need of that:",
    );
    page.line("#outbound:");
    page.line("#  plain: allow");
    page.line("#  allow: [\"10.0.0.0/8\"]");
}

/// A double-quoted scalar: every JSON string is one in YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text so far.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }

    fn comment(&mut self, words: &str) {
        self.wrapped("# ", "# ", words);
    }

    fn item(&mut self, words: &str) {
        self.wrapped("# * ", "#   ", words);
    }

    fn wrapped(&mut self, first: &str, further: &str, words: &str) {
        let mut line = first.to_owned();
        let mut empty = true;
        // Text from the file must not end the comment that quotes it.
        for word in words.split_whitespace() {
            if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
                self.line(line.trim_end());
                line = further.to_owned();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.line(line.trim_end());
    }
}
