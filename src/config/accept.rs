//! From [`Raw`] to [`Config`]: compares keys with each other, reads files, looks up CPUs.
//!
//! Every check runs, whatever the others found. But a check whose input is already wrong stays silent, so that one
//! mistake is one line.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustls_pki_types::ServerName;

use super::access::Opened;
use super::accounts::{self, Backend, MemorySecret, MemoryUser};
use super::certificates::{self, CertifiedPair, PairSource};
use super::problems::ConfigErrors;
use super::raw::{Raw, RawMetrics, RawPair, RawUser};
use super::shared_secrets;
use super::values::{
    Accounting, Auth, CaSource, Config, Listen, Metrics, Outbound, Sessions, Tls, UnprovenRelays,
};
use super::walk::{Problems, spell_duration};
use msrp_proto::digest::Algorithm;

/// The longest path of a socket that the kernel accepts, in bytes.
const SOCKET_PATH_MAX: usize = 107;

impl TryFrom<Raw> for Config {
    type Error = ConfigErrors;

    fn try_from(mut raw: Raw) -> Result<Self, ConfigErrors> {
        let mut problems = std::mem::take(&mut raw.problems);
        let mut warnings = Vec::new();

        check_listen(&raw.listen, &mut problems);
        check_websocket(&raw, &mut problems);
        check_duplicates("domains", raw.domains.as_deref().unwrap_or_default(), &mut problems);
        let directory = Path::new(&raw.origin).parent().unwrap_or_else(|| Path::new("")).to_owned();
        let files = Files { directory: &directory };
        let tls = files.tls(&mut raw, &mut problems, &mut warnings);
        let hostname = hostname(raw.hostname.take(), &tls, &mut problems);
        let available = available_cpus();
        let cores = cores(raw.cores.take(), &available, &mut problems);
        check_sessions(&raw.sessions, &mut problems);
        let outbound = Outbound {
            ca: files.ca("outbound.ca", raw.outbound.ca.take(), &mut problems),
            ..std::mem::take(&mut raw.outbound.rest)
        };
        let shared_secrets = shared_secrets::accept(&mut raw.auth.shared_secrets, &mut problems);
        let users = users(&mut raw, &mut problems);
        let users_written = users.len();
        let sole_domain = sole_domain(raw.domains.as_deref(), &users);
        let accounts = std::mem::take(&mut raw.auth.accounts);
        let (cache, cache_entries_max) = (accounts.cache, accounts.cache_entries_max);
        let resolve = |path: &Path| files.resolve(path);
        let backend = accounts.accept(users, &raw.auth.algorithms, resolve, &mut problems);
        let backend = backend.unwrap_or(Backend::Memory(Vec::new()));
        let admin = raw.admin.take().map(|path| files.resolve(&path));
        let too_long = |path: &&PathBuf| path.as_os_str().len() > SOCKET_PATH_MAX;
        if let Some(path) = admin.as_ref().filter(too_long) {
            let bytes = path.as_os_str().len();
            let message = format!("has {bytes} bytes, {SOCKET_PATH_MAX} at most: choose a shorter path");
            problems.add("admin.socket", message);
        }
        check_metrics(&raw.metrics, &mut problems);
        let file = raw.accounting.file.take().map(|path| files.resolve(&path));
        let accounting = raw.accounting.format.map(|format| Accounting { format, file });
        if raw.opens_later {
            let (accounting, admin) = (accounting.as_ref(), admin.as_deref());
            Opened { backend: &backend, accounting, admin }.check(&mut problems, &mut warnings);
        }
        warn(&raw, &hostname, &mut warnings);
        let beside = (users_written, shared_secrets.as_slice());
        accounts::warn(&backend, beside, raw.limits.lookup_timeout, &raw.origin, &mut warnings);

        if !problems.is_empty() {
            return Err(ConfigErrors::new(raw.origin, problems.into_vec()));
        }
        Ok(Self {
            listen: raw.listen,
            hostname,
            realm: raw.realm.or(sole_domain),
            domains: raw.domains,
            tls,
            cores,
            auth: Auth {
                backend,
                shared_secrets,
                cache,
                cache_entries_max,
                algorithms: raw.auth.algorithms,
                challenge_lifetime: raw.auth.challenge_lifetime,
                max_attempts: u32::try_from(raw.auth.max_attempts).unwrap_or(u32::MAX),
                log_failures: raw.auth.log_failures,
                insecure_plain: raw.auth.insecure_plain,
            },
            websocket: raw.websocket,
            sessions: raw.sessions,
            methods: raw.methods,
            outbound,
            dns: raw.dns,
            drain_timeout: raw.drain_timeout,
            admin,
            accounting,
            limits: raw.limits,
            log: raw.log,
            metrics: raw.metrics.address.map(|address| Metrics { address }),
            warnings,
        })
    }
}

fn check_listen(listen: &[Listen], problems: &mut Problems) {
    if listen.is_empty() && !problems.under("listen") {
        problems.add("listen", "is empty: name an address, such as {address: \"0.0.0.0:2855\"}");
    }
    let mut seen = HashSet::new();
    for (index, Listen { address, .. }) in listen.iter().enumerate() {
        if address.port() != 0 && !seen.insert(address) {
            problems.add(format!("listen[{index}].address"), format!("{address} is there twice: remove one"));
        }
    }
}

/// A client by WebSocket can do nothing without AUTH, and its URI leads to a port that speaks MSRP as it is.
fn check_websocket(raw: &Raw, problems: &mut Problems) {
    if problems.under("listen") {
        return;
    }
    for (index, listen) in raw.listen.iter().enumerate().filter(|(_, listen)| listen.websocket) {
        if !listen.tls && !raw.auth.insecure_plain {
            problems.add(
                format!("listen[{index}].tls"),
                "is false, and WebSocket clients must authenticate: write true, or, for tests, auth.insecure_plain: true",
            );
        }
    }
    if !raw.listen.is_empty() && raw.listen.iter().all(|listen| listen.websocket) {
        problems.add(
            "listen",
            "has WebSocket alone, and the URIs of its clients lead to a port for MSRP: add {address: \"0.0.0.0:2855\"}",
        );
    }
}

/// Every client that reaches the address sees the figures: the operator must intend that.
fn check_metrics(metrics: &RawMetrics, problems: &mut Problems) {
    match metrics.address {
        Some(address) if !address.ip().is_loopback() && !metrics.allow_remote => {
            let remedy = "write 127.0.0.1, or add allow_remote: true if a firewall guards it";
            problems.add(
                "metrics.address",
                format!("{address} is not a loopback address, and anybody who reaches it may look: {remedy}"),
            );
        }
        None if metrics.allow_remote && !problems.under("metrics") => {
            problems
                .add("metrics.address", "is missing: write it as \"0.0.0.0:9285\", or remove allow_remote");
        }
        _ => {}
    }
}

fn check_duplicates(key: &str, names: &[String], problems: &mut Problems) {
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        if !seen.insert(name) {
            problems.add(format!("{key}[{index}]"), format!("{name} is there twice: remove one"));
        }
    }
}

/// Reads the files that the config names.
struct Files<'a> {
    /// The directory that relative paths start from.
    directory: &'a Path,
}

impl Files<'_> {
    fn tls(&self, raw: &mut Raw, problems: &mut Problems, warnings: &mut Vec<String>) -> Tls {
        let pairs = std::mem::take(&mut raw.tls.certificates);
        if pairs.is_empty() && raw.listen.iter().any(|listen| listen.tls) && !problems.under("tls") {
            problems.add(
                "tls",
                "is missing, but a listener speaks TLS: name certificate and key (gen-cert.sh, in /usr/share/msrprelay, makes a pair)",
            );
        }
        let client_ca = raw.tls.client_ca.take().map(|path| self.ca("tls.client_ca", path, problems));
        if client_ca.is_none() && raw.tls.unproven_relays == UnprovenRelays::Refuse {
            problems.add(
                "tls.unproven_relays",
                "is refuse, but no relay can prove its name: name a tls.client_ca, or write accept",
            );
        }
        let sources: Vec<_> = pairs.into_iter().filter_map(|pair| self.source(pair, problems)).collect();
        let load = |source: PairSource| source.load(problems, warnings);
        Tls {
            certificates: sources.into_iter().filter_map(load).collect(),
            client_ca,
            unproven_relays: raw.tls.unproven_relays,
            record_layer: raw.tls.record_layer,
        }
    }

    /// The files of a pair, if both keys are given.
    fn source(&self, pair: RawPair, problems: &mut Problems) -> Option<PairSource> {
        for (name, path) in [("certificate", &pair.certificate), ("key", &pair.key)] {
            let at = format!("{}.{name}", pair.at);
            if path.is_none() && !problems.under(&at) {
                problems.add(at, "is missing: name a PEM file");
            }
        }
        let (certificate, key) = (self.resolve(&pair.certificate?), self.resolve(&pair.key?));
        Some(PairSource { at: pair.at, certificate, key })
    }

    fn ca(&self, key: &str, path: Option<PathBuf>, problems: &mut Problems) -> CaSource {
        let Some(path) = path.map(|path| self.resolve(&path)) else {
            return CaSource::System;
        };
        let certificates = certificates::read_chain(&path).unwrap_or_else(|message| {
            problems.add(key, message);
            Vec::new()
        });
        CaSource::File { path, certificates }
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }
}

/// The host name: as given, or the first name of the first certificate. If there are certificates, one must cover it.
fn hostname(given: Option<String>, tls: &Tls, problems: &mut Problems) -> String {
    // Without the certificates' names, the host name cannot be checked.
    if problems.under("tls") || problems.under("hostname") {
        return String::new();
    }
    if let Some(address) = given.as_deref().and_then(|name| name.parse::<std::net::Ipv6Addr>().ok()) {
        let message = format!("is an address, {address}: a relay's URIs need a host name (RFC 4976, 4.2)");
        problems.add("hostname", message);
        return String::new();
    }
    match (given, tls.certificates.first()) {
        (Some(name), None) => name,
        (Some(name), Some(_)) => covered(name, &tls.certificates, problems),
        (None, None) => {
            problems.add(
                "hostname",
                "is missing, and there is no certificate to take it from: name the relay's host",
            );
            String::new()
        }
        (None, Some(first)) => {
            first.names.iter().find(|name| !name.starts_with('*')).cloned().unwrap_or_else(|| {
                let path = first.certificate_path.display();
                let message = format!(
                    "is missing, and {path} holds no DNS name to take it from: name the relay's host"
                );
                problems.add("hostname", message);
                String::new()
            })
        }
    }
}

fn covered(name: String, certificates: &[CertifiedPair], problems: &mut Problems) -> String {
    let covered = ServerName::try_from(name.as_str())
        .is_ok_and(|name| certificates.iter().any(|certificate| certificate.covers(&name)));
    if !covered {
        let names: Vec<_> = certificates.iter().flat_map(|pair| &pair.names).map(String::as_str).collect();
        let names = if names.is_empty() { "no DNS name".to_owned() } else { names.join(", ") };
        let remedy = "use one of its names or issue it for this one";
        problems.add(
            "hostname",
            format!("{name} is not covered by the certificate, which is for {names}: {remedy}"),
        );
    }
    name
}

/// The CPUs of the affinity mask, ascending. Read on the thread that loads the config: boot has not pinned it.
fn available_cpus() -> Vec<usize> {
    let mut cpus: Vec<_> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    cpus
}

fn cores(given: Option<Vec<usize>>, available: &[usize], problems: &mut Problems) -> Vec<usize> {
    let Some(mut cores) = given else {
        if available.is_empty() {
            problems.add("cores", "the CPUs open to this process cannot be read: list them, such as [0]");
        }
        return available.to_vec();
    };
    if cores.is_empty() {
        problems.add("cores", "is empty: write auto, or name a CPU");
    }
    let mut seen = HashSet::new();
    for (index, cpu) in cores.iter().enumerate() {
        let at = || format!("cores[{index}]");
        if !seen.insert(*cpu) {
            problems.add(at(), format!("CPU {cpu} is there twice: remove one"));
        } else if !available.is_empty() && !available.contains(cpu) {
            problems.add(
                at(),
                format!("CPU {cpu} is not open to this process, only {available:?}: choose among these"),
            );
        }
    }
    cores.sort_unstable();
    cores
}

fn check_sessions(sessions: &Sessions, problems: &mut Problems) {
    let Sessions { expires_min, expires_default, expires_max, .. } = *sessions;
    let ordered = [
        ("sessions.expires_min", expires_min, "expires_default", expires_default),
        ("sessions.expires_default", expires_default, "expires_max", expires_max),
    ];
    for (key, low, high_key, high) in ordered {
        if low > high && !problems.under("sessions") {
            let high = spell_duration(high);
            problems.add(key, format!("is above {high_key} ({high}): lower it or raise the other"));
        }
    }
}

// -- accounts --------------------------------------------------------------------------------------

fn users(raw: &mut Raw, problems: &mut Problems) -> Vec<MemoryUser> {
    let written = std::mem::take(&mut raw.auth.users);
    let mut seen = HashSet::new();
    let mut users = Vec::with_capacity(written.len());
    for written in written {
        let (at, whole) = (format!("{}.user", written.at), !problems.under(&written.at));
        let Some(user) = accept_user(written, raw, problems).filter(|_| whole) else {
            continue;
        };
        if !seen.insert((user.user.clone(), user.domain.clone())) {
            problems.add(at, format!("{}@{} is there twice: remove one", user.user, user.domain));
        }
        users.push(user);
    }
    users
}

/// The one domain of all accounts, if the config names it. It is the realm, whatever host an AUTH is addressed to: no
/// other realm has accounts.
fn sole_domain(domains: Option<&[String]>, users: &[MemoryUser]) -> Option<String> {
    match domains {
        Some([domain]) => Some(domain.clone()),
        Some(_) => None,
        None => {
            let (first, others) = users.split_first()?;
            others.iter().all(|user| user.domain == first.domain).then(|| first.domain.clone())
        }
    }
}

fn accept_user(written: RawUser, raw: &Raw, problems: &mut Problems) -> Option<MemoryUser> {
    let name = accept_name(&written, raw, problems);
    let secret = accept_secret(written, &raw.auth.algorithms, problems);
    let ((user, domain), secret) = (name?, secret?);
    Some(MemoryUser { user, domain, secret })
}

/// User and domain. A domain that the relay does not serve is a mistake: its users could never log in.
fn accept_name(written: &RawUser, raw: &Raw, problems: &mut Problems) -> Option<(String, String)> {
    let at = format!("{}.user", written.at);
    let Some(name) = &written.user else {
        if !problems.under(&at) {
            problems.add(at, "is missing: write it as \"alice@example.com\"");
        }
        return None;
    };
    let (user, domain) = match (name.rsplit_once('@'), &raw.realm) {
        (Some((user, domain)), _) => (user, domain),
        (None, Some(realm)) => (name.as_str(), realm.as_str()),
        (None, None) => {
            let remedy = format!("write \"{name}@example.com\" or set realm");
            problems.add(
                at,
                format!("\"{name}\" has no domain, and there is no realm to stand for it: {remedy}"),
            );
            return None;
        }
    };
    if user.is_empty() || name.chars().any(char::is_control) {
        problems.add(at, "is not a user name: write it as \"alice@example.com\"");
        return None;
    }
    let domain = domain.to_ascii_lowercase();
    let refusal = match (&raw.realm, &raw.domains) {
        (Some(realm), _) if !realm.eq_ignore_ascii_case(&domain) => {
            format!("is not of the realm {realm}: correct it, or remove realm to serve several domains")
        }
        (None, Some(domains)) if !domains.contains(&domain) => {
            format!("is not of a domain in `domains`: correct it or add {domain} there")
        }
        (None, _) if ServerName::try_from(domain.as_str()).is_err() => {
            "has no domain name behind the @: write it as \"alice@example.com\"".to_owned()
        }
        _ => return Some((user.to_owned(), domain)),
    };
    problems.add(at, format!("{name} {refusal}"));
    None
}

fn accept_secret(
    written: RawUser,
    algorithms: &[Algorithm],
    problems: &mut Problems,
) -> Option<MemorySecret> {
    if ["password", "ha1", "ha1_sha256"].iter().any(|key| problems.under(&format!("{}.{key}", written.at))) {
        return None;
    }
    let (md5, sha256) = (written.ha1, written.ha1_sha256);
    let mut refuse = |message: &str| {
        problems.add(&written.at, message);
        None
    };
    match written.password {
        Some(_) if md5.is_some() || sha256.is_some() => {
            refuse("has a password and an ha1: keep the ha1 and remove the password")
        }
        Some(password) => Some(MemorySecret::Password(password)),
        None if md5.is_none() && sha256.is_none() => refuse("has neither password nor ha1: give one"),
        None if md5.is_none() && algorithms.contains(&Algorithm::Md5) => {
            refuse("has no ha1, but auth.algorithms offers md5: add it, or take md5 out")
        }
        None if sha256.is_none() && algorithms.contains(&Algorithm::Sha256) => {
            refuse("has no ha1_sha256, but auth.algorithms offers sha-256: add it, or take sha-256 out")
        }
        None => Some(MemorySecret::Ha1 { md5, sha256 }),
    }
}

fn warn(raw: &Raw, hostname: &str, warnings: &mut Vec<String>) {
    if hostname.parse::<std::net::Ipv4Addr>().is_ok() {
        warnings.push(format!("hostname: {hostname} is an address: RFC 4976, 4.2, asks for a host name"));
    }
    if raw.auth.insecure_plain {
        warnings.push("auth.insecure_plain: clients may authenticate without TLS, and session URIs travel in clear: for tests only".to_owned());
    }
}
