//! The config as an operator meets it: accepted and refused ones, and the words.
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use msrp_proto::digest::Algorithm;
use msrp_ws::upgrade::{Origins, Wanted};
use msrprelay::config::{
    Accounting, AccountingFormat, Backend, CaSource, Config, ConfigErrors, DnsServers, EndpointTls, Limits,
    LogFormat, LogLevel, MemorySecret, MemoryUser, PlainPolicy, RecordLayer, UnprovenRelays,
};
use tempfile::TempDir;

const SAMPLE: &str = include_str!("../../config.yaml.sample");

/// A directory with a config's files in it: `relay.crt` and `relay.key` for relay.example.com and
/// *.wild.example.com, `other.crt` and `other.key` for other.example.com.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.pair("relay", &["relay.example.com", "*.wild.example.com"]);
        place.pair("other", &["other.example.com"]);
        place
    }

    fn pair(&self, name: &str, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        self.write(&format!("{name}.crt"), &pair.cert.pem(), 0o644);
        self.write(&format!("{name}.key"), &pair.signing_key.serialize_pem(), 0o600);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Reads `text` as the file `config.yaml` of this directory.
    fn load(&self, text: &str) -> Result<Config, ConfigErrors> {
        Config::load(&self.write("config.yaml", text, 0o600))
    }

    /// The config of `text`, with certificate and key supplied.
    fn accept(&self, text: &str) -> Config {
        match self.load(&format!("{TLS}\n{text}")) {
            Ok(config) => config,
            Err(errors) => panic!("{text}\n{errors}"),
        }
    }

    /// The lines that refuse `text`, without the file's name.
    fn refuse(&self, text: &str) -> Vec<String> {
        let errors = self.load(text).map(|_| ()).expect_err(text).to_string();
        let file = format!("{}: ", self.path("config.yaml").display());
        let directory = format!("{}/", self.0.path().display());
        errors.lines().map(|line| line.strip_prefix(&file).expect(line).replace(&directory, "")).collect()
    }
}

const TLS: &str = "tls: {certificate: relay.crt, key: relay.key}";

fn users(config: &Config) -> &[MemoryUser] {
    let Backend::Memory(users) = &config.auth.backend else { panic!("another backend") };
    users
}

#[test]
fn the_sample_says_what_the_defaults_are() {
    let place = Place::new();
    let sample = SAMPLE.replace("/etc/msrprelay/tls/", "");
    let sample = place.load(&sample).unwrap_or_else(|errors| panic!("{errors}"));
    let defaults = place.accept("");
    assert_eq!(format!("{sample:#?}"), format!("{defaults:#?}"));
}

/// What the sample and docs/operate/accounts.md have where a secret belongs.
const NO_SECRET: &str = "write here what openssl rand -hex 32 prints";

#[test]
fn page_about_accounts_has_no_secret_that_could_be_copied() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate/accounts.md")).unwrap();
    let secrets: Vec<_> = page.lines().filter_map(|line| line.split_once("secret: \"")).collect();
    assert!(!secrets.is_empty());
    assert!(secrets.iter().all(|(_, rest)| rest.starts_with(NO_SECRET)), "{secrets:?}");
}

#[test]
fn what_the_sample_offers_in_comments_is_accepted() {
    let place = Place::new();
    for name in ["a", "b", "relays-ca"] {
        place.pair(name, &["relay.example.com"]);
    }
    // The alternatives: comments without a space after the #.
    let uncommented: Vec<_> = SAMPLE
        .lines()
        .filter(|line| {
            !line.contains("users: []")
                && !line.contains("shared_secrets: []")
                && !line.contains("relay.crt")
                && !line.contains("relay.key")
        })
        .map(|line| match line.trim_start().strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || rest.starts_with("  - {")) => {
                line.replacen('#', "", 1)
            }
            _ => line.to_owned(),
        })
        .collect();
    let text = uncommented.join("\n").replace("/etc/msrprelay/tls/", "");
    // What stands there for a secret is none: everybody can read it.
    let refused = place.load(&text).unwrap_err().to_string();
    assert!(refused.contains("auth.shared_secrets[0].secret: is the text of the documentation"), "{refused}");
    let text = text.replace(NO_SECRET, "0123456789abcdef0123456789abcdef");
    let config = place.load(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(config.tls.certificates.len(), 2);
    assert_eq!(users(&config).len(), 2);
    assert_eq!(config.auth.shared_secrets.len(), 1);
    assert_eq!(config.realm.as_deref(), Some("example.com"));
    assert_eq!(config.metrics.map(|metrics| metrics.address.port()), Some(9285));
}

#[test]
fn figures_are_shown_to_others_only_if_the_config_says_so() {
    let place = Place::new();
    for (text, shown) in [
        ("", None),
        ("metrics: {}", None),
        ("metrics: {address: '127.0.0.1:9285'}", Some("127.0.0.1:9285")),
        ("metrics: {address: '[::1]:0'}", Some("[::1]:0")),
        ("metrics: {address: '0.0.0.0:9285', allow_remote: true}", Some("0.0.0.0:9285")),
    ] {
        let found = place.accept(text).metrics.map(|metrics| metrics.address.to_string());
        assert_eq!(found.as_deref(), shown, "{text}");
    }
}

#[test]
fn realm_is_the_sole_domain_where_there_is_one() {
    let place = Place::new();
    let users = |names: &[&str]| {
        let users = names.iter().map(|name| format!("{{user: {name}, password: x}}"));
        format!("auth: {{memory: {{users: [{}]}}}}", users.collect::<Vec<_>>().join(", "))
    };
    let of_one = users(&["a@b.example", "c@B.example"]);
    let of_two = users(&["a@b.example", "a@c.example"]);
    for (text, realm) in [
        (of_one.clone(), Some("b.example")),
        (of_two, None),
        (users(&[]), None),
        ("domains: [b.example]".to_owned(), Some("b.example")),
        ("domains: [B.example]\nauth: {backend: sqlite}".to_owned(), Some("b.example")),
        ("domains: [b.example, c.example]".to_owned(), None),
        // A second domain is served, though none of its users stands in the config yet.
        (format!("domains: [b.example, c.example]\n{of_one}"), None),
        ("realm: A.example\ndomains: [b.example]".to_owned(), Some("A.example")),
    ] {
        assert_eq!(place.accept(&text).realm.as_deref(), realm, "{text}");
    }
}

#[test]
fn an_empty_config_lacks_only_its_certificate() {
    let problems = Place::new().refuse("");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].starts_with("tls: is missing"), "{problems:#?}");
}

#[test]
fn records_are_the_relays_own_unless_they_are_left_to_rustls() {
    let place = Place::new();
    let tls = |more: &str| format!("tls: {{certificate: relay.crt, key: relay.key{more}}}");
    for (more, layer) in [
        ("", RecordLayer::Direct),
        (", record_layer: rustls", RecordLayer::Rustls),
        (", record_layer: direct", RecordLayer::Direct),
    ] {
        assert_eq!(place.load(&tls(more)).unwrap().tls.record_layer, layer);
    }
}

#[test]
fn everything_can_be_set() {
    let place = Place::new();
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    let config = place.accept(&format!(
        r#"
listen: [{{address: "127.0.0.1:0"}}, {{address: "[::1]:2856", tls: false}}, {{address: "127.0.0.1:443", websocket: true}}]
hostname: Edge.Wild.Example.com
realm: Example.com
domains: [Example.com, example.org]
cores: [{cpu}]
auth:
  backend: memory
  algorithms: [md5, sha-256]
  challenge_lifetime: 1m
  max_attempts: 5
  log_failures: true
  insecure_plain: true
  memory:
    users:
      - {{user: "alice@EXAMPLE.com", password: "1234"}}
      - {{user: bob, ha1: "0123456789abcdef0123456789ABCDEF", ha1_sha256: "{}"}}
sessions: {{expires_min: 2s, expires_default: 5m, expires_max: 1h, enforce_default: true}}
websocket: {{origins: ["HTTPS://Chat.example.com", "null"], path: /msrp, max_message: 128KiB, ping_interval: 5s, window: 2MiB}}
methods: {{allow_other: false}}
outbound: {{endpoint_tls: verify, plain: allow, ca: other.crt, relays: [Inner.example.net, "*.example.org"], connect_timeout: 250ms, allow: ["127.0.0.0/8", "::1"], deny: ["127.9.9.9/16"], max_chunk: {{Kam.example.net: 10KiB, "*.Example.org": 60KiB, "[::01]": 1GiB, 192.0.2.7: 1024}}}}
dns: {{servers: ["192.0.2.53", "[2001:db8::53]:5353"]}}
drain_timeout: 5m
accounting: {{format: json, file: records}}
admin: {{socket: /run/msrprelay/admin.sock}}
limits: {{head_bytes_max: 32KiB, connections_max: 100, handshake_timeout: 2s, first_request_timeout: 3s}}
log: {{level: debug, format: json}}
"#,
        "ab".repeat(32)
    ));
    assert_eq!(config.listen[0].address, "127.0.0.1:0".parse::<SocketAddr>().unwrap());
    assert!(config.listen[0].tls && !config.listen[1].tls);
    assert_eq!(config.listen.iter().map(|listen| listen.websocket).collect::<Vec<_>>(), [false, false, true]);
    let websocket = &config.websocket;
    let origins = ["https://chat.example.com", "null"].map(str::to_owned).to_vec();
    assert_eq!(websocket.upgrade, Wanted { origins: Origins::Listed(origins), path: "/msrp".to_owned() });
    assert_eq!((websocket.max_message, websocket.window), (128 << 10, 2 << 20));
    assert_eq!(websocket.ping_interval, Duration::from_secs(5));
    assert_eq!(config.hostname, "edge.wild.example.com");
    assert_eq!(config.realm.as_deref(), Some("Example.com"));
    assert_eq!(config.domains.as_deref(), Some(&["example.com".to_owned(), "example.org".to_owned()][..]));
    assert_eq!(config.cores, [cpu]);
    assert_eq!(config.auth.algorithms, [Algorithm::Sha256, Algorithm::Md5]);
    assert_eq!((config.auth.challenge_lifetime, config.auth.max_attempts), (Duration::from_secs(60), 5));
    assert!(config.auth.log_failures && config.auth.insecure_plain);
    let [alice, bob] = users(&config) else { panic!("two users") };
    assert_eq!((alice.user.as_str(), alice.domain.as_str()), ("alice", "example.com"));
    assert!(matches!(&alice.secret, MemorySecret::Password(password) if password == "1234"));
    assert_eq!((bob.user.as_str(), bob.domain.as_str()), ("bob", "example.com"));
    assert!(matches!(&bob.secret, MemorySecret::Ha1 { md5: Some(_), sha256: Some(_) }));
    assert_eq!(config.sessions.expires_default, Duration::from_secs(300));
    assert!(config.sessions.enforce_default && !config.methods.allow_other);
    let outbound = &config.outbound;
    assert_eq!((outbound.endpoint_tls, outbound.plain), (EndpointTls::Verify, PlainPolicy::Allow));
    assert!(matches!(&outbound.ca, CaSource::File { certificates, .. } if certificates.len() == 1));
    assert_eq!(outbound.relays, ["inner.example.net", "*.example.org"]);
    assert_eq!(outbound.connect_timeout, Duration::from_millis(250));
    assert_eq!(outbound.allow, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(outbound.deny, ["127.9.0.0/16".parse().unwrap()]);
    let bounds =
        [("kam.example.net", 10 << 10), ("*.example.org", 60 << 10), ("::1", 1 << 30), ("192.0.2.7", 1024)];
    assert_eq!(outbound.max_chunk, bounds.map(|(host, bytes)| (host.to_owned(), bytes)));
    let servers = ["192.0.2.53:53", "[2001:db8::53]:5353"].map(|server| server.parse().unwrap());
    assert_eq!(config.dns.servers, DnsServers::List(servers.to_vec()));
    assert_eq!(config.drain_timeout, Duration::from_secs(300));
    let accounting = Accounting { format: AccountingFormat::Json, file: Some(place.path("records")) };
    assert_eq!(config.accounting, Some(accounting));
    assert_eq!(config.admin, Some(PathBuf::from("/run/msrprelay/admin.sock")));
    let limits = Limits {
        head_bytes_max: 32 << 10,
        connections_max: 100,
        handshake_timeout: Duration::from_secs(2),
        first_request_timeout: Duration::from_secs(3),
        ..Limits::default()
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.limits.parser().head_bytes_max, 32 << 10);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
}

/// An IPv4-mapped IPv6 address is the IPv4 address, wherever the config has it: it is compared with others.
#[test]
fn addresses_in_ipv6_clothing_are_read_as_ipv4() {
    let place = Place::new();
    let config = place.accept(
        "listen: [{address: \"[::ffff:127.0.0.1]:0\", tls: false}]\nhostname: relay.example.com\n\
         metrics: {address: \"[::ffff:127.0.0.1]:9285\"}\n\
         dns: {servers: [\"::ffff:192.0.2.53\", \"[::ffff:192.0.2.54]:53\"]}\n\
         outbound: {allow: [\"::ffff:10.0.0.0/104\", \"::ffff:192.0.2.1\", \"::/0\"], deny: [\"::ffff:10.9.9.9/112\"], \
         max_chunk: {\"[::ffff:192.0.2.7]\": 1KiB}}\n",
    );
    assert_eq!(config.listen[0].address, "127.0.0.1:0".parse::<SocketAddr>().unwrap());
    assert_eq!(config.metrics.unwrap().address, "127.0.0.1:9285".parse::<SocketAddr>().unwrap());
    let servers = ["192.0.2.53:53", "192.0.2.54:53"].map(|server| server.parse().unwrap());
    assert_eq!(config.dns.servers, DnsServers::List(servers.to_vec()));
    let nets = ["10.0.0.0/8", "192.0.2.1/32", "::/0"].map(|net| net.parse().unwrap());
    assert_eq!(config.outbound.allow, nets);
    assert_eq!(config.outbound.deny, ["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(config.outbound.max_chunk, [("192.0.2.7".to_owned(), 1024)]);
}

#[test]
fn calling_relays_are_endpoints_unless_the_config_names_their_authority() {
    let place = Place::new();
    place.pair("relay", &["relay.example.com"]);
    place.pair("other", &["other.example.com"]);
    let tls = |more: &str| {
        let text = format!("tls: {{certificate: relay.crt, key: relay.key{more}}}");
        place.load(&text).unwrap().tls
    };
    assert_eq!((tls("").client_ca, tls("").unproven_relays), (None, UnprovenRelays::Accept));
    assert_eq!(tls(", client_ca: system").client_ca, Some(CaSource::System));
    let strict = tls(", client_ca: other.crt, unproven_relays: refuse");
    assert!(
        matches!(&strict.client_ca, Some(CaSource::File { certificates, .. }) if certificates.len() == 1)
    );
    assert_eq!(strict.unproven_relays, UnprovenRelays::Refuse);
}

/// Each text, and the one line that must refuse it (its beginning). `tls:` is supplied where it is absent.
const REFUSED: &[(&str, &str)] = &[
    // Shape
    ("listen: [", "not valid YAML: "),
    ("[1, 2]", "is not a config: "),
    ("hostnam: x", "hostnam: unknown key: did you mean `hostname`?"),
    ("frobnicate: x", "frobnicate: unknown key: remove it"),
    ("Listen: x", "Listen: unknown key: did you mean `listen`?"),
    ("host: x", "host: unknown key: did you mean `hostname`?"),
    (
        "tls: {certificate: relay.crt, key: relay.key, cert: c}",
        "tls.cert: unknown key: did you mean `certificate`?",
    ),
    (
        "outbound: {connect-timeout: 1s}",
        "outbound.connect-timeout: unknown key: did you mean `connect_timeout`?",
    ),
    ("outbound: {timeout: 1s}", "outbound.timeout: unknown key: did you mean `connect_timeout`?"),
    ("limits: {connections: 5}", "limits.connections: unknown key: did you mean `connections_max`?"),
    ("log: {file: x}", "log.file: unknown key: remove it, or write one of level, format"),
    (
        "auth: {memory: {users: [{user: a@b.example, pasword: x}]}}",
        "auth.memory.users[0].pasword: unknown key: did you mean `password`?",
    ),
    ("1: x", "has a key that is not text: "),
    ("limits: [1]", "limits: is a list, not a section: "),
    ("realm:", "realm: has no value: "),
    ("realm: 17", "realm: is a number, not text: put it in \"quotes\""),
    ("realm: \"\"", "realm: is empty: "),
    ("realm: 'a\"b'", "realm: is not fit for a realm: "),
    ("hostname: \"relay.example.com:2855\"", "hostname: \"relay.example.com:2855\" is not a host name: "),
    ("domains: example.com", "domains: is text, not a list: "),
    ("domains: []", "domains: is empty"),
    ("domains: [a.example, A.example]", "domains[1]: a.example is there twice: "),
    ("domains: [a.example, 'b c']", "domains[1]: \"b c\" is not a host name: "),
    ("listen: [{adress: '0.0.0.0:2855'}]", "listen[0].adress: unknown key: did you mean `address`?"),
    (
        "tls: {certificat: relay.crt, key: relay.key}",
        "tls.certificat: unknown key: did you mean `certificate`?",
    ),
    // Listeners
    ("listen: []", "listen: is empty: "),
    ("listen: ['0.0.0.0:2855']", "listen[0]: is text: write it as {key: value, ...}"),
    (
        "listen: [{address: foo}]",
        "listen[0].address: \"foo\" is not an address and port: write it as \"0.0.0.0:2855\"",
    ),
    ("listen: [{tls: true}]", "listen[0].address: is missing: "),
    ("listen: [{address: '1.2.3.4:1', tls: yes}]", "listen[0].tls: \"yes\" is neither: write true or false"),
    (
        "listen: [{address: '1.2.3.4:1'}, {address: '1.2.3.4:1', tls: false}]",
        "listen[1].address: 1.2.3.4:1 is there twice: ",
    ),
    // Certificates
    ("tls: {certificate: relay.crt}", "tls.key: is missing: name a PEM file"),
    ("tls: {key: relay.key}", "tls.certificate: is missing: name a PEM file"),
    ("tls: {certificate: gone.crt, key: relay.key}", "tls.certificate: gone.crt: no such file: "),
    ("tls: {certificate: relay.crt, key: relay.crt}", "tls.key: relay.crt: holds no private key: "),
    ("tls: {certificate: relay.key, key: relay.key}", "tls.certificate: relay.key: holds no certificate: "),
    (
        "tls: {certificate: relay.crt, key: other.key}",
        "tls.key: other.key: does not match the certificate relay.crt: ",
    ),
    (
        "tls: {certificate: garbage.crt, key: relay.key}",
        "tls.certificate: garbage.crt: the first certificate is unusable ",
    ),
    ("tls: {certificate: torn.crt, key: relay.key}", "tls.certificate: torn.crt: not a PEM file "),
    ("tls: {certificate: relay.crt, key: locked.key}", "tls.key: locked.key: the key is encrypted: "),
    (
        "tls: {certificates: [{certificate: relay.crt, key: relay.key}, {certificate: other.crt, key: relay.key}]}",
        "tls.certificates[1].key: relay.key: does not match ",
    ),
    (
        "tls: {certificates: [{certificate: relay.crt, key: relay.key}], key: relay.key}",
        "tls.certificates: stands beside certificate and key: ",
    ),
    (
        "tls: {certificate: relay.crt, key: relay.key, client_ca: gone.pem}",
        "tls.client_ca: gone.pem: no such file: ",
    ),
    (
        "tls: {certificate: relay.crt, key: relay.key, unproven_relays: maybe}",
        "tls.unproven_relays: \"maybe\" is not known here: write accept or refuse",
    ),
    (
        "tls: {certificate: relay.crt, key: relay.key, unproven_relays: refuse}",
        "tls.unproven_relays: is refuse, but no relay can prove its name: name a tls.client_ca, or write accept",
    ),
    (
        "tls: {certificate: relay.crt, key: relay.key, record_layer: kernel}",
        "tls.record_layer: \"kernel\" is not known here: write rustls or direct",
    ),
    (
        "hostname: elsewhere.example.com",
        "hostname: elsewhere.example.com is not covered by the certificate, which is for relay.example.com, *.wild.example.com: ",
    ),
    ("hostname: a.b.wild.example.com", "hostname: a.b.wild.example.com is not covered "),
    ("hostname: wild.example.com", "hostname: wild.example.com is not covered "),
    ("tls: {certificate: wild.crt, key: wild.key}", "hostname: is missing, and wild.crt holds no DNS name "),
    // Cores
    ("cores: all", "cores: is neither: write auto, or a list"),
    ("cores: []", "cores: is empty: "),
    ("cores: [65000]", "cores[0]: CPU 65000 is not open to this process, "),
    ("cores: [one]", "cores: is neither: "),
    // Accounts
    (
        "auth: {backend: ldap}",
        "auth.backend: \"ldap\" is not known here: write memory or sqlite or mysql or postgres",
    ),
    ("auth: {backend: mysql}", "auth.mysql.url: is missing, but auth.backend is mysql: "),
    ("auth: {mysql: {url: x}}", "auth.mysql.url: is not the URL of a database: "),
    ("auth: {mysql: {url: 'mysql://u:p@h'}}", "auth.mysql.url: names no database: "),
    (
        "auth: {mysql: {url: 'mysql://u:p@h/d?pool_max=7'}}",
        "auth.mysql.url: has an option that is not known here: write socket, require_ssl, ",
    ),
    (
        "auth: {mysql: {url: 'mysql://u:p@h/d?require_ssl=yes'}}",
        "auth.mysql.url: has an option that is neither true nor false: ",
    ),
    (
        "auth: {mysql: {url: 'mysql://u:p@h/d?verify_ca=true'}}",
        "auth.mysql.url: verifies nothing without TLS: ",
    ),
    (
        "auth: {mysql: {url: 'mysql://u:p@h/d?socket=/s&require_ssl=true'}}",
        "auth.mysql.url: has a socket of this machine, which knows no TLS: ",
    ),
    (
        "auth: {backend: mysql, mysql: {url: 'mysql://u:p@h/d', ca: relay.crt}}",
        "auth.mysql.ca: does nothing without TLS: ",
    ),
    (
        "auth: {backend: mysql, mysql: {url: 'mysql://u:p@h/d?require_ssl=true', ca: gone.crt}}",
        "auth.mysql.ca: gone.crt: no such file: ",
    ),
    (
        "auth: {mysql: {password_column: 'ha1` FROM mysql.user -- '}}",
        "auth.mysql.password_column: is not a name in a database: ",
    ),
    ("auth: {mysql: {table: a.b.c}}", "auth.mysql.table: is not the name of a table: "),
    ("auth: {mysql: {table: 'a b'}}", "auth.mysql.table: is not a name in a database: "),
    (
        "auth: {backend: mysql, algorithms: [sha-256, md5], mysql: {url: 'mysql://u:p@h/d'}}",
        "auth.mysql.ha1_sha256_column: is missing, but auth.algorithms offers sha-256: ",
    ),
    ("auth: {mysql: {connections_max: 0}}", "auth.mysql.connections_max: 0 is below 1: write 1 to 256"),
    ("auth: {mysql: {query_timeout: 10ms}}", "auth.mysql.query_timeout: 10ms is below 100ms: "),
    (
        "auth: {backend: postgres}",
        "auth.postgres.url: is missing, but auth.backend is postgres: write it as postgres://",
    ),
    ("auth: {postgres: {url: x}}", "auth.postgres.url: is not the URL of a database: "),
    ("auth: {postgres: {url: 'mysql://u:p@h/d'}}", "auth.postgres.url: is not the URL of a database: "),
    ("auth: {postgres: {url: 'postgres://u:p@h'}}", "auth.postgres.url: names no database: "),
    ("auth: {postgres: {url: 'postgres://h/d'}}", "auth.postgres.url: names no user: "),
    ("auth: {postgres: {url: 'postgres://u:p@/d'}}", "auth.postgres.url: names no host: "),
    (
        "auth: {postgres: {url: 'postgres://u:p@h/d?connect_timeout=2'}}",
        "auth.postgres.url: has an option that is not known here: write sslmode, ",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/etc/db-ca.crt'}}",
        "auth.postgres.url: has sslrootcert: name the CA in auth.postgres.ca, or leave it to the system's authorities",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@h/d?sslmode=verify-full&sslrootcert=system'}}",
        "auth.postgres.url: has sslrootcert: name the CA in auth.postgres.ca, or leave it to the system's authorities",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@one.example,two.example/d'}}",
        "auth.postgres.url: names several hosts: write one, such as a name or an address that leads to the server in charge",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@one.example:5432,two.example:5432/d'}}",
        "auth.postgres.url: names several hosts: ",
    ),
    ("auth: {postgres: {url: 'postgres://u:p@::1/d'}}", "auth.postgres.url: is not the URL of a database: "),
    ("auth: {postgres: {url: 'postgres://u:p@[::1/d'}}", "auth.postgres.url: is not the URL of a database: "),
    (
        "auth: {postgres: {url: 'postgres://u:p@a host/d'}}",
        "auth.postgres.url: is not the URL of a database: ",
    ),
    ("auth: {postgres: {url: 'postgres://u:p@h:0/d'}}", "auth.postgres.url: is not the URL of a database: "),
    (
        "auth: {postgres: {url: 'postgres://u:p@h:+5432/d'}}",
        "auth.postgres.url: is not the URL of a database: ",
    ),
    (
        "auth: {mysql: {url: 'mysql://u:p@one.example,two.example/d'}}",
        "auth.mysql.url: names several hosts: ",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@h/d?sslmode=prefer'}}",
        "auth.postgres.url: would go on in clear if the server has no TLS: write sslmode=verify-full, or disable",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@h/d?sslmode=full'}}",
        "auth.postgres.url: has an sslmode that is not known here: write disable, require, verify-ca or verify-full",
    ),
    (
        "auth: {postgres: {url: 'postgres://u:p@h/d?host=/s&sslmode=require'}}",
        "auth.postgres.url: has a socket of this machine, which knows no TLS: ",
    ),
    (
        "auth: {backend: postgres, postgres: {url: 'postgres://u:p@h/d', ca: relay.crt}}",
        "auth.postgres.ca: does nothing without TLS: write ?sslmode=verify-full behind auth.postgres.url",
    ),
    (
        "auth: {backend: postgres, postgres: {url: 'postgres://u:p@h/d?sslmode=require', ca: relay.crt}}",
        "auth.postgres.ca: does nothing with sslmode=require: write ?sslmode=verify-full behind auth.postgres.url",
    ),
    (
        "auth: {backend: postgres, algorithms: [sha-256], postgres: {url: 'postgres://u:p@h/d'}}",
        "auth.postgres.ha1_sha256_column: is missing, but auth.algorithms offers sha-256: ",
    ),
    (
        "auth: {postgres: {connections_max: 257}}",
        "auth.postgres.connections_max: 257 is above 256: write 1 to 256",
    ),
    (
        "auth: {shared_secrets: [{}]}",
        "auth.shared_secrets[0].secret: is missing: write what `openssl rand -hex 32` prints",
    ),
    (
        "auth: {shared_secrets: [{secret: short}]}",
        "auth.shared_secrets[0].secret: has 5 bytes: write 16 to 1024, ",
    ),
    (
        "auth: {shared_secrets: [{secret: 'write here what openssl rand -hex 32 prints'}]}",
        "auth.shared_secrets[0].secret: is the text of the documentation, which everybody knows: write what `openssl rand -hex 32` prints",
    ),
    (
        "auth: {shared_secrets: [{secret: \"0123456789abcdefg\\n\"}]}",
        "auth.shared_secrets[0].secret: begins or ends with white space, which others may leave out: remove it",
    ),
    (
        "auth: {shared_secrets: [{secret: ' 0123456789abcdefg'}]}",
        "auth.shared_secrets[0].secret: begins or ends with white space, ",
    ),
    (
        "auth: {shared_secrets: [{secret: 0123456789abcdefg, algorithm: md5}]}",
        "auth.shared_secrets[0].algorithm: \"md5\" is not known here: write sha-1 or sha-256",
    ),
    (
        "auth: {shared_secrets: [{secret: 0123456789abcdefg, ttl_max: 31d}]}",
        "auth.shared_secrets[0].ttl_max: 31d is above 30d: write 1m to 30d",
    ),
    (
        "auth: {shared_secrets: [{secret: 0123456789abcdefg}, {secret: 0123456789abcdefg}]}",
        "auth.shared_secrets[1].secret: is there twice: remove one",
    ),
    (
        "auth: {shared_secrets: [{secret: 0123456789abcdef1}, {secret: 0123456789abcdef2}, {secret: 0123456789abcdef3}, \
         {secret: 0123456789abcdef4}, {secret: 0123456789abcdef5}, {secret: 0123456789abcdef6}, \
         {secret: 0123456789abcdef7}, {secret: 0123456789abcdef8}, {secret: 0123456789abcdef9}]}",
        "auth.shared_secrets: has 9 entries, 8 at most: remove old ones",
    ),
    ("auth: {cache: 2h}", "auth.cache: 2h is above 1h: write 1s to 1h"),
    ("auth: {cache: never}", "auth.cache: \"never\" is not a length of time: "),
    ("auth: {cache_entries_max: 1}", "auth.cache_entries_max: 1 is below 16: write 16 to 1048576"),
    ("auth: {sqlite: {path: 7}}", "auth.sqlite.path: is a number, not text: "),
    ("auth: {algorithms: [sha1]}", "auth.algorithms[0]: \"sha1\" is not known here: write md5 or sha-256"),
    ("auth: {algorithms: []}", "auth.algorithms: is empty: "),
    ("auth: {challenge_lifetime: 15}", "auth.challenge_lifetime: 15 has no unit: write it as 15s"),
    ("auth: {challenge_lifetime: 6m}", "auth.challenge_lifetime: 6m is above 5m: write 1s to 5m"),
    ("auth: {max_attempts: 0}", "auth.max_attempts: 0 is below 1: write 1 to 100"),
    ("auth: {max_attempts: many}", "auth.max_attempts: \"many\" is not a count: "),
    ("auth: {memory: {users: [{password: x}]}}", "auth.memory.users[0].user: is missing: "),
    (
        "auth: {memory: {users: [{user: a@b.example}]}}",
        "auth.memory.users[0]: has neither password nor ha1: ",
    ),
    (
        "auth: {memory: {users: [{user: a@b.example, password: 1234}]}}",
        "auth.memory.users[0].password: is a number, not text: put it in \"quotes\"",
    ),
    (
        "auth: {memory: {users: [{user: a@b.example, password: x, ha1: '0123456789abcdef0123456789abcdef'}]}}",
        "auth.memory.users[0]: has a password and an ha1: ",
    ),
    (
        "auth: {memory: {users: [{user: a@b.example, ha1: '0123'}]}}",
        "auth.memory.users[0].ha1: is not 32 hexadecimal digits: ",
    ),
    (
        "auth: {memory: {users: [{user: a@b.example, ha1: '+123456789abcdef0123456789abcdef'}]}}",
        "auth.memory.users[0].ha1: is not 32 hexadecimal digits: ",
    ),
    (
        "auth: {memory: {users: [{user: a@b.example, ha1_sha256: '0123'}]}}",
        "auth.memory.users[0].ha1_sha256: is not 64 hexadecimal digits: ",
    ),
    (
        "auth: {algorithms: [md5, sha-256], memory: {users: [{user: a@b.example, ha1: '0123456789abcdef0123456789abcdef'}]}}",
        "auth.memory.users[0]: has no ha1_sha256, but auth.algorithms offers sha-256: ",
    ),
    (
        "auth: {memory: {users: [{user: a, password: x}]}}",
        "auth.memory.users[0].user: \"a\" has no domain, and there is no realm ",
    ),
    (
        "auth: {memory: {users: [{user: '@b.example', password: x}]}}",
        "auth.memory.users[0].user: is not a user name: ",
    ),
    (
        "auth: {memory: {users: [{user: 'a@', password: x}]}}",
        "auth.memory.users[0].user: a@ has no domain name behind the @: ",
    ),
    (
        "auth: {memory: {users: [{user: a@b.example, password: x}, {user: a@B.example, password: y}]}}",
        "auth.memory.users[1].user: a@b.example is there twice: ",
    ),
    (
        "{realm: b.example, auth: {memory: {users: [{user: a, password: x}, {user: a@b.example, password: y}]}}}",
        "auth.memory.users[1].user: a@b.example is there twice: ",
    ),
    (
        "{realm: b.example, auth: {memory: {users: [{user: a@c.example, password: x}]}}}",
        "auth.memory.users[0].user: a@c.example is not of the realm b.example: ",
    ),
    (
        "{domains: [b.example], auth: {memory: {users: [{user: a@c.example, password: x}]}}}",
        "auth.memory.users[0].user: a@c.example is not of a domain in `domains`: ",
    ),
    // The rest
    ("sessions: {expires_min: 1500ms}", "sessions.expires_min: has a fraction of a second"),
    ("sessions: {expires_max: 2d}", "sessions.expires_max: 2d is above 1d: write 1s to 1d"),
    ("sessions: {expires_default: 2h}", "sessions.expires_default: is above expires_max (1h): "),
    ("sessions: {expires_min: 20m}", "sessions.expires_min: is above expires_default (10m): "),
    ("methods: {allow_other: 1}", "methods.allow_other: 1 is neither: write true or false"),
    (
        "outbound: {endpoint_tls: maybe}",
        "outbound.endpoint_tls: \"maybe\" is not known here: write encrypt-only or verify or refuse",
    ),
    ("outbound: {plain: true}", "outbound.plain: true is not known here: write refuse or allow"),
    (
        "outbound: {relays: [\"*.*.example.net\"]}",
        "outbound.relays[0]: \"*.*.example.net\" is not a relay's host name: write relay.example.net, or *.example.net",
    ),
    ("outbound: {relays: [192.0.2.1]}", "outbound.relays[0]: \"192.0.2.1\" is not a relay's host name: "),
    ("outbound: {ca: gone.pem}", "outbound.ca: gone.pem: no such file: "),
    ("outbound: {connect_timeout: 1h}", "outbound.connect_timeout: 1h is above 1m: write 100ms to 1m"),
    (
        "outbound: {allow: ['10.0.0.0/8', '10.0.0.0/33']}",
        "outbound.allow[1]: \"10.0.0.0/33\" is not an address range: ",
    ),
    ("outbound: {max_chunk: 10KiB}", "outbound.max_chunk: is text: write it as {name: value, ...}"),
    (
        "outbound: {max_chunk: {a.example: 1000}}",
        "outbound.max_chunk.a.example: 1000B is below 1KiB: write 1KiB to 1GiB",
    ),
    (
        "outbound: {max_chunk: {a.example: 2GiB}}",
        "outbound.max_chunk.a.example: 2GiB is above 1GiB: write 1KiB to 1GiB",
    ),
    ("outbound: {max_chunk: {a.example: big}}", "outbound.max_chunk.a.example: \"big\" is not a size: "),
    (
        "outbound: {max_chunk: {\"a.example:2855\": 1KiB}}",
        "outbound.max_chunk.a.example:2855: is not a host: ",
    ),
    ("outbound: {max_chunk: {\"a.*.example\": 1KiB}}", "outbound.max_chunk.a.*.example: is not a host: "),
    ("outbound: {max_chunk: {\"*\": 1KiB}}", "outbound.max_chunk.*: is not a host: "),
    ("outbound: {max_chunk: {7: 1KiB}}", "outbound.max_chunk: has a name that is not text: "),
    (
        "outbound: {max_chunk: {a.example: 1KiB, A.example: 2KiB}}",
        "outbound.max_chunk.A.example: is there twice: remove one",
    ),
    ("dns: {servers: [one.example]}", "dns.servers: \"one.example\" is not a name server's address: "),
    ("dns: {servers: []}", "dns.servers: is empty: "),
    ("dns: {servers: none}", "dns.servers: is neither: "),
    ("drain_timeout: 300", "drain_timeout: 300 has no unit: write it as 300s"),
    ("drain_timeout: 2d", "drain_timeout: 2d is above 1d: write 0s to 1d"),
    ("accounting: {format: csv}", "accounting.format: \"csv\" is not known here: write off or text or json"),
    ("accounting: json", "accounting: is text, not a section: "),
    ("admin: {}", "admin.socket: is missing: write it as /run/msrprelay/admin.sock"),
    ("admin: {socket: 7}", "admin.socket: is a number, not text: "),
    (
        "admin: {socket: /run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sock}",
        "admin.socket: has 121 bytes, 107 at most: choose a shorter path",
    ),
    ("metrics: {address: nowhere}", "metrics.address: \"nowhere\" is not an address and port: "),
    ("metrics: {address: '0.0.0.0:9285'}", "metrics.address: 0.0.0.0:9285 is not a loopback address"),
    ("metrics: {allow_remote: true}", "metrics.address: is missing: "),
    ("limits: {head_bytes_max: 12}", "limits.head_bytes_max: 12B is below 2KiB: write 2KiB to 1MiB"),
    ("limits: {head_bytes_max: 16KB}", "limits.head_bytes_max: \"16KB\" is not a size: "),
    (
        "limits: {queue_bytes_low: 256KiB}",
        "limits.queue_bytes_low: must stay below queue_bytes_high (256KiB): ",
    ),
    ("limits: {line_bytes_max: 17KiB}", "limits.line_bytes_max: must not exceed head_bytes_max (16KiB): "),
    (
        "limits: {handshake_timeout: 40s}",
        "limits.handshake_timeout: must not exceed first_request_timeout (30s): ",
    ),
    (
        "limits: {connections_per_address_max: 10}",
        "limits.unauthenticated_per_address_max: must not exceed connections_per_address_max (10): ",
    ),
    (
        "limits: {queue_bytes_low: 20KiB}",
        "limits.queue_bytes_low: must not be below head_bytes_max and the longest body of a request other than SEND (",
    ),
    ("outbound: {ports: [\"80-70\"]}", "outbound.ports[0]: \"80-70\" is no range of ports: "),
    ("outbound: {ports: [0]}", "outbound.ports[0]: \"0\" is no range of ports: "),
    ("hostname: \"2001:db8::1\"", "hostname: is an address, 2001:db8::1: "),
    // WebSocket
    (
        "listen: [{address: '0.0.0.0:443', websocket: true}]",
        "listen: has WebSocket alone, and the URIs of its clients",
    ),
    (
        "listen: [{address: '0.0.0.0:2855'}, {address: '0.0.0.0:80', tls: false, websocket: true}]",
        "listen[1].tls: is false, and WebSocket clients must authenticate: write true",
    ),
    ("listen: [{address: '0.0.0.0:2855', websocket: maybe}]", "listen[0].websocket: "),
    (
        "listen: [{address: '0.0.0.0:2855', websockets: true}]",
        "listen[0].websockets: unknown key: did you mean `websocket`?",
    ),
    ("websocket: {origin: any}", "websocket.origin: unknown key: did you mean `origins`?"),
    (
        "websocket: {origins: []}",
        "websocket.origins: is empty, which would admit no page: write any, or a list",
    ),
    ("websocket: {origins: all}", "websocket.origins: is neither: write any, or a list"),
    (
        "websocket: {origins: ['https://chat.example.com/']}",
        "websocket.origins: \"https://chat.example.com/\" is not an origin: write it as https://chat.example.com",
    ),
    ("websocket: {path: msrp}", "websocket.path: \"msrp\" is not a path: write it as / or /msrp"),
    ("websocket: {path: '/a?b'}", "websocket.path: \"/a?b\" is not a path: "),
    ("websocket: {max_message: 8KiB}", "websocket.max_message: 8KiB is below 16KiB: write 16KiB to 1MiB"),
    ("websocket: {ping_interval: 2h}", "websocket.ping_interval: 2h is above 1h: write 1s to 1h"),
    ("websocket: {window: 128MiB}", "websocket.window: 128MiB is above 64MiB: write 64KiB to 64MiB"),
    ("log: {level: loud}", "log.level: \"loud\" is not known here: write error or warn or info or debug"),
    ("log: {format: xml}", "log.format: \"xml\" is not known here: write text or json"),
];

#[test]
fn every_mistake_is_one_line_with_its_key_and_a_remedy() {
    let place = Place::new();
    place.pair("wild", &["*.example.com"]);
    let pem = |what: &str, body: &str| format!("-----BEGIN {what}-----\n{body}\n-----END {what}-----\n");
    place.write("garbage.crt", &pem("CERTIFICATE", "AAAA"), 0o644);
    place.write("torn.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n", 0o644);
    place.write("locked.key", &pem("ENCRYPTED PRIVATE KEY", "AAAA"), 0o600);
    for (text, expected) in REFUSED {
        let text = match text {
            text if text.contains("tls: {") || text.starts_with('[') => (*text).to_owned(),
            text if text.starts_with('{') => text.replacen('{', &format!("{{{TLS}, "), 1),
            text => format!("{TLS}\n{text}"),
        };
        let problems = place.refuse(&text);
        assert!(
            problems.len() == 1 && problems[0].starts_with(expected),
            "{text}\nwanted: {expected}\n{problems:#?}"
        );
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let problems = Place::new().refuse(
        r#"
listen: [{address: foo}, {address: "0.0.0.0:2855", tsl: true}]
hostname: 17
tls: {certificate: gone.crt, key: gone.key}
cores: [65000]
auth:
  challenge_lifetime: 15
  memory: {users: [{user: alice, password: "x"}, {user: "bob@example.com", password: 1234}, {user: "carol@example.com"}]}
sessions: {expires_min: 0s}
limits: {head_bytes_max: 12, queue_bytes_low: lots}
metrics: {adress: "127.0.0.1:9285"}
"#,
    );
    let keys: Vec<_> = problems.iter().map(|line| line.split(": ").next().unwrap()).collect();
    for key in [
        "listen[0].address",
        "listen[1].tsl",
        "hostname",
        "tls.certificate",
        "tls.key",
        "cores[0]",
        "auth.challenge_lifetime",
        "auth.memory.users[0].user",
        "auth.memory.users[1].password",
        "auth.memory.users[2]",
        "sessions.expires_min",
        "limits.head_bytes_max",
        "limits.queue_bytes_low",
        "metrics.adress",
    ] {
        assert!(keys.contains(&key), "{key} in {keys:#?}");
    }
    assert_eq!(keys.len(), 14, "{problems:#?}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_line() {
    let place = Place::new();
    let path = place.path("gone.yaml");
    let errors = Config::load(&path).map(|_| ()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        format!("{}: no such file: create it or correct the path", path.display())
    );
    assert_eq!(errors.problems().len(), 1);
    assert!(Config::load(place.0.path()).map(|_| ()).unwrap_err().to_string().contains("is a directory"));
}

#[test]
fn the_hostname_is_the_first_name_of_the_certificate_unless_given() {
    let place = Place::new();
    assert_eq!(place.accept("").hostname, "relay.example.com");
    assert_eq!(place.accept("hostname: one.wild.example.com").hostname, "one.wild.example.com");
    let two = "tls: {certificates: [{certificate: relay.crt, key: relay.key}, {certificate: other.crt, key: other.key}]}";
    let config = place.load(two).unwrap();
    assert_eq!(config.hostname, "relay.example.com");
    assert_eq!(config.tls.certificates[0].names, ["relay.example.com", "*.wild.example.com"]);
    assert_eq!(
        place.load(&format!("{two}\nhostname: other.example.com")).unwrap().hostname,
        "other.example.com"
    );
}

#[test]
fn plain_listeners_alone_need_a_hostname_and_no_certificate() {
    let place = Place::new();
    let plain = "listen: [{address: '127.0.0.1:0', tls: false}]";
    let problems = place.refuse(plain);
    assert!(problems.len() == 1 && problems[0].starts_with("hostname: is missing"), "{problems:#?}");
    let config = place.load(&format!("{plain}\nhostname: relay.example.com")).unwrap();
    assert!(config.tls.certificates.is_empty());
}

#[test]
fn several_listeners_may_leave_the_port_to_the_kernel() {
    let config = Place::new().accept("listen: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0'}]");
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn auto_takes_every_cpu_of_the_affinity_mask() {
    let mut mask: Vec<_> = core_affinity::get_core_ids().unwrap().iter().map(|core| core.id).collect();
    mask.sort_unstable();
    assert_eq!(Place::new().accept("cores: auto").cores, mask);

    // A thread of its own: a pinned test thread could not get its mask back.
    let one = std::thread::spawn(move || {
        let last = *core_affinity::get_core_ids().unwrap().last().unwrap();
        assert!(core_affinity::set_for_current(last));
        (Place::new().accept("").cores, last.id)
    });
    let (cores, last) = one.join().unwrap();
    assert_eq!(cores, [last]);
}

#[test]
fn a_cpu_named_twice_is_refused() {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    let problems = Place::new().refuse(&format!("{TLS}\ncores: [{cpu}, {cpu}]"));
    assert_eq!(problems, [format!("cores[1]: CPU {cpu} is there twice: remove one")]);
}

#[test]
fn secrets_appear_neither_in_problems_nor_in_debug_output() {
    let place = Place::new();
    let text = |password: &str, ha1: &str| {
        format!(
            "auth: {{memory: {{users: [{{user: a@b.example, password: {password}}}, {{user: c@b.example, ha1: {ha1}}}]}}}}"
        )
    };
    let good = place.accept(&text("hushhush", "'0123456789abcdef0123456789abcdef'"));
    let shown = format!("{good:?}");
    assert!(!shown.contains("hushhush") && !shown.contains("0123456789abcdef"), "{shown}");
    let key = fs::read_to_string(place.path("relay.key")).unwrap();
    assert!(!shown.contains(key.lines().nth(1).unwrap()));

    let problems = place.refuse(&format!("{TLS}\n{}", text("87654321", "'beef0123'"))).join("\n");
    assert!(!problems.contains("87654321") && !problems.contains("beef0123"), "{problems}");
}

#[test]
fn what_is_unwise_is_a_warning() {
    let place = Place::new();
    let user = "auth: {memory: {users: [{user: a@b.example, password: x}]}}";
    assert_eq!(place.accept(user).warnings, Vec::<String>::new());
    assert!(place.accept("").warnings[0].starts_with("auth.memory.users: is empty"));
    assert!(place.accept("auth: {insecure_plain: true}").warnings[0].starts_with("auth.insecure_plain: "));

    // Who is called like a credential is taken for one, and never found among the users.
    for (without_user, name, warned) in
        [(true, "4915112345678", true), (false, "4915112345678", false), (true, "alice", false)]
    {
        let auth = format!(
            "auth: {{memory: {{users: [{{user: {name}@b.example, password: x}}]}}, \
             shared_secrets: [{{secret: 0123456789abcdefg, without_user: {without_user}}}]}}"
        );
        let warnings = place.accept(&auth).warnings;
        let about_it = |warning: &String| {
            warning.starts_with(
                "auth.memory.users: 4915112345678@b.example is taken for a credential of auth.shared_secrets",
            )
        };
        assert_eq!(
            (warnings.len(), warnings.iter().any(about_it)),
            (usize::from(warned), warned),
            "{warnings:?}"
        );
    }
    let database = |options: &str| {
        place
            .accept(&format!(
                "auth: {{backend: mysql, mysql: {{url: 'mysql://u:p@db.example.com/d?{options}'}}}}"
            ))
            .warnings
    };
    assert_eq!(database("require_ssl=true"), Vec::<String>::new());
    let warnings = database("require_ssl=true&verify_identity=false");
    assert!(
        warnings.len() == 1
            && warnings[0].starts_with("auth.mysql.url: verify_identity=false has no effect: "),
        "{warnings:?}"
    );
    assert_eq!(database("require_ssl=true&verify_ca=false&verify_identity=false").len(), 1);

    let open = place.write("open.yaml", &format!("{TLS}\n{user}"), 0o644);
    let warnings = Config::load(&open).unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("can be read by every user: chmod 640"),
        "{warnings:?}"
    );
    place.write("relay.key", &fs::read_to_string(place.path("relay.key")).unwrap(), 0o644);
    let warnings = place.accept(user).warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("tls.key: "), "{warnings:?}");
}

#[test]
fn generated_certificates_are_accepted() {
    let place = Place::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gen-cert.sh");
    let generate = |arguments: &[&str]| {
        let mut command = Command::new(&script);
        command.current_dir(place.0.path()).args(arguments).output().unwrap()
    };
    let cases: [&[&str]; 3] = [
        &["--out", "self"],
        &["--out", "rsa", "--rsa", "--san", "*.example.org"],
        &["--out", "signed", "--ca", "ca"],
    ];
    for arguments in cases {
        let arguments: Vec<_> = ["edge.example.com"].iter().chain(arguments).copied().collect();
        let output = generate(&arguments);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // What it prints for the config is a config.
        let tls = printed.split_once("tls:\n").unwrap().1.split_once("\n\n").unwrap().0;
        let config = place.load(&format!("tls:\n{tls}")).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.hostname, "edge.example.com");
        let mode = fs::metadata(&config.tls.certificates[0].key_path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!generate(&arguments).status.success(), "overwritten");
    }
}

#[test]
fn check_config_prints_ok_or_every_problem() {
    let place = Place::new();
    let check = |text: &str| {
        let path = place.write("config.yaml", text, 0o600);
        let mut command = Command::new(env!("CARGO_BIN_EXE_msrprelay"));
        // Another user may not read this directory.
        let own = fs::metadata("/proc/self").unwrap().uid().to_string();
        let output = command.arg("check-config").arg(path).args(["--user", &own]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, _) = check(TLS);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("OK: ") && out.contains("relay.example.com"), "{out}");
    let (code, out, _) = check(&format!(
        "{TLS}\nauth: {{shared_secrets: [{{secret: 0123456789abcdefg}}, {{secret: fedcba9876543210f, algorithm: sha-256, ttl_max: 1h}}]}}"
    ));
    assert_eq!(code, Some(0));
    assert!(out.contains("  credentials  sha-1 up to 1d (signs), sha-256 up to 1h\n"), "{out}");
    assert!(!out.contains("0123456789") && !out.contains("fedcba"), "{out}");
    let (code, out, err) = check("hostname: 17\nlog: {level: loud}");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(err.lines().count(), 3, "{err}");
}

/// A config whose files are root's, or the relay's user's, as the test makes them; and who that is.
const RELAY: u32 = 64998;

fn check_as(place: &Place, user: &str, text: &str) -> (Option<i32>, String) {
    let path = place.write("config.yaml", text, 0o644);
    let mut command = Command::new(env!("CARGO_BIN_EXE_msrprelay"));
    let output = command.arg("check-config").arg(path).args(["--user", user]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn check_config_by_root_finds_what_the_relays_user_may_not_do() {
    use std::os::unix::fs::chown;
    if !testkit_net::process::is_root() {
        return println!("skipped: not root");
    }
    let place = Place::new();
    let root = place.0.path().to_owned();
    let at = |name: &str| root.join(name);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["roots", "theirs"] {
        fs::create_dir(at(directory)).unwrap();
    }
    chown(at("theirs"), Some(RELAY), Some(RELAY)).unwrap();
    let user = format!("{RELAY}:{RELAY}");
    let names = |accounts: &str, records: &str, socket: &str| {
        format!(
            "{TLS}\nauth: {{backend: sqlite, sqlite: {{path: {accounts}}}}}\naccounting: {{format: json, file: {records}}}\n\
             admin: {{socket: {socket}}}\n"
        )
    };
    let theirs = names("theirs/a.db", "theirs/records", "theirs/s");
    let key = at("relay.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(at("roots/records"), "").unwrap();
    fs::write(at("roots/a.db"), "").unwrap();
    for file in ["roots/records", "roots/a.db"] {
        fs::set_permissions(at(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    // All of it at once, each with its key and remedy.
    let (code, said) = check_as(&place, &user, &names("roots/a.db", "roots/records", "roots/s"));
    assert_eq!(code, Some(1), "{said}");
    for key in ["tls.key", "auth.sqlite.path", "accounting.file", "admin.socket"] {
        let lines = said.lines().filter(|line| line.contains(&format!(": {key}: ")));
        let lines: Vec<_> = lines.collect();
        assert!(!lines.is_empty(), "{key}: {said}");
        let remedied = |line: &&str| line.contains("permission denied: let the user");
        assert!(lines.iter().all(remedied), "{said}");
    }
    let (code, said) = check_as(&place, &user, &names("none/a.db", "none/records", "none/s"));
    assert_eq!((code, said.matches("no such directory: create it").count()), (Some(1), 3), "{said}");
    // Only the key is in the way; then nothing.
    let (code, said) = check_as(&place, &user, &theirs);
    assert!(code == Some(1) && said.lines().count() == 1 && said.contains("tls.key"), "{said}");
    chown(&key, Some(0), Some(RELAY)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (code, said) = check_as(&place, &user, &theirs);
    assert!(code == Some(0) && said.contains(&format!("checked as   {user}")), "{said}");
    assert_eq!(fs::read_dir(at("theirs")).unwrap().count(), 0, "a check makes nothing");
    // In place of each file something that cannot be one.
    for (name, key) in [("a.db", "auth.sqlite.path"), ("records", "accounting.file"), ("s", "admin.socket")] {
        fs::create_dir(at("theirs").join(name)).unwrap();
        let (code, said) = check_as(&place, &user, &theirs);
        assert!(code == Some(1) && said.contains(&format!(": {key}: ")), "{said}");
        fs::remove_dir(at("theirs").join(name)).unwrap();
    }
    fs::write(
        at("theirs/a.db"),
        "something else, and not short of a header of SQLite's, which has 100 bytes.".repeat(3),
    )
    .unwrap();
    chown(at("theirs/a.db"), Some(RELAY), Some(RELAY)).unwrap();
    let (code, said) = check_as(&place, &user, &theirs);
    assert!(code == Some(1) && said.contains("holds no accounts"), "{said}");
    // The config itself, which may hold passwords.
    fs::remove_file(at("theirs/a.db")).unwrap();
    let config = place.write("config.yaml", &theirs, 0o600);
    let mut command = Command::new(env!("CARGO_BIN_EXE_msrprelay"));
    let output = command.arg("check-config").arg(config).args(["--user", &user]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("permission denied: let the user"));
    // A user that does not exist is no reason to check as root.
    let (code, said) = check_as(&place, "no-such-user", &theirs);
    assert!(code == Some(1) && said.contains("no such user"), "{said}");
}

// A badly written URL holds its password anywhere: after a `?`, as a host, as a port.
#[test]
fn no_part_of_a_database_url_is_ever_repeated() {
    let place = Place::new();
    for url in [
        "mysql://relay:S3cr?et@db.example.com/opensips",
        "mysql://relay:S3cr#et@db.example.com/opensips",
        "mysql://relay:S3cr/et@db.example.com/opensips",
        "mysql://relay:S3cr?require_ssl=S3cret@db.example.com/opensips",
        "mysql://relay:S3cr?S3cret=true&require_ssl=true@db.example.com/opensips",
        "mysql:S3cret",
        "S3cret",
        "mysql://relay:S3cret@db.example.com:S3cret/opensips",
        "mysql://relay:S3cret@db.example.com/opensips?require_ssl=S3cret",
        "postgres://relay:S3cret@db.example.com/opensips",
    ] {
        let problems = place.refuse(&format!("{TLS}\nauth: {{backend: mysql, mysql: {{url: '{url}'}}}}"));
        assert!(problems.iter().all(|problem| problem.starts_with("auth.mysql.url: ")), "{problems:?}");
        let told = problems.concat();
        assert!(!told.contains("S3cr") && !told.contains("relay"), "{told}");
    }
    for url in [
        "postgres://relay:S3cr?et@db.example.com/opensips",
        "postgres://relay:S3cr#et@db.example.com/opensips",
        "postgres://relay:S3cr/et@db.example.com/opensips",
        "postgres://relay:S3cr:et@db.example.com/opensips",
        "postgres://relay:S3cr@et@db.example.com/opensips",
        "postgres://relay:S3cr?sslmode=S3cret@db.example.com/opensips",
        "postgres:S3cret",
        "S3cret",
        "postgres://relay:S3cret@db.example.com:S3cret/opensips",
        "postgres://relay:S3cret@db.example.com/opensips?sslmode=S3cret",
        "postgres://relay:S3cret@db.example.com/opensips?password=S3cret",
        "mysql://relay:S3cret@db.example.com/opensips",
    ] {
        let problems =
            place.refuse(&format!("{TLS}\nauth: {{backend: postgres, postgres: {{url: '{url}'}}}}"));
        assert!(problems.iter().all(|problem| problem.starts_with("auth.postgres.url: ")), "{problems:?}");
        let told = problems.concat();
        assert!(!told.contains("S3cr") && !told.contains("relay"), "{told}");
    }
    let accepted = place.accept(
        "auth: {backend: postgres, postgres: {url: 'postgresql://relay:S3%40%3A%2Fcret@db.example.com/opensips?sslmode=verify-full'}}",
    );
    let Backend::Postgres(postgres) = &accepted.auth.backend else { panic!("{accepted:?}") };
    assert_eq!(postgres.server.password.as_deref(), Some("S3@:/cret"));
    assert_eq!(postgres.server.to_string(), "opensips at db.example.com:5432");
    assert!(!format!("{accepted:#?}").contains("S3"));
    assert!(accepted.warnings.is_empty(), "{:?}", accepted.warnings);
    let accepted = place.accept(
        "auth: {backend: mysql, mysql: {url: 'mysql://relay:S3%40%3A%2Fcret@db.example.com/opensips?require_ssl=true'}}",
    );
    let Backend::Mysql(mysql) = &accepted.auth.backend else { panic!("{accepted:?}") };
    assert_eq!(mysql.server.password.as_deref(), Some("S3@:/cret"));
    assert_eq!(mysql.server.to_string(), "opensips at db.example.com:3306");
    assert!(!format!("{accepted:#?}").contains("S3"));
    assert!(accepted.warnings.is_empty(), "{:?}", accepted.warnings);
}

#[test]
fn what_crosses_the_network_in_clear_is_warned_of() {
    let place = Place::new();
    let warned = |url: &str| {
        let (backend, _) = url.split_once(':').unwrap();
        let config = place.accept(&format!("auth: {{backend: {backend}, {backend}: {{url: '{url}'}}}}"));
        config.warnings.iter().any(|warning| warning.starts_with(&format!("auth.{backend}.url: ")))
    };
    for safe in [
        "mysql://u:p@localhost/d",
        "mysql://u:p@127.0.0.1/d",
        "mysql://u:p@[::1]/d",
        "mysql://u:p@db.example.com/d?socket=/run/mysqld.sock",
        "mysql://u:p@db.example.com/d?require_ssl=true",
        "postgres://u:p@localhost/d",
        "postgres://u:p@[::1]/d",
        "postgres://u@db.example.com/d?host=/run/postgresql",
        "postgres://u@%2Frun%2Fpostgresql/d",
        "postgres://u:p@db.example.com/d?sslmode=verify-full",
        "postgres://u:p@db.example.com/d?sslmode=verify-ca",
    ] {
        assert!(!warned(safe), "{safe}");
    }
    assert!(warned("mysql://u:p@db.example.com/d"));
    assert!(warned("mysql://u:p@db.example.com/d?require_ssl=true&verify_ca=false"));
    assert!(warned("postgres://u:p@db.example.com/d"));
    assert!(warned("postgres://u:p@db.example.com/d?sslmode=disable"));
    assert!(warned("postgres://u:p@db.example.com/d?sslmode=require"));
}

#[test]
fn a_database_that_is_not_there_yet_is_warned_of_and_users_left_in_the_config_too() {
    let place = Place::new();
    let config = place.accept(
        "auth: {backend: sqlite, sqlite: {path: accounts.db}, memory: {users: [{user: a@b.example, password: x}]}}",
    );
    let Backend::Sqlite(sqlite) = &config.auth.backend else { panic!("{config:?}") };
    assert_eq!(sqlite.path, place.path("accounts.db"));
    for start in ["auth.sqlite.path: ", "auth.memory.users: is not used"] {
        assert!(config.warnings.iter().any(|warning| warning.starts_with(start)), "{:?}", config.warnings);
    }
}
