//! `msrp probe DOMAIN`: whether clients of a SIP domain reach its relays, at each of their addresses.
//!
//! Invariant: a problem at one address is reported and the other addresses are still tried; status 0 means that there
//! was none.

use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use msrp_client::{
    ClientError, Endpoint, Located, LocatedRelay, NoAddress, Stage, Target, TlsFacts, TlsVersion,
    covered_names, epoch_seconds, locate, validity,
};
use serde_json::{Value, json};
use untrusted::text;

use crate::observed::{Described, listed, millis, observe, observe_any};
use crate::options::{ConnectionArguments, Login};
use crate::outcome::{Failure, Report};
use crate::units::counted;

/// A certificate that ends sooner than this gets a warning.
const EXPIRY_DAYS_MIN: i64 = 14;
const DAY: i64 = 86_400;

/// Asks the DNS, and reports what it says. Blocks.
pub(crate) fn ask(
    domain: &str,
    server: Option<SocketAddr>,
    connection: &ConnectionArguments,
    report: &mut Report,
) -> Result<Located, Failure> {
    let located = locate(domain, server, connection.connect_timeout)?;
    report.lines.push(format!("domain       {domain}"));
    report.json["domain"] = json!(domain);
    report.json["srv"] = json!(located.srv);
    report.lines.push(match (located.srv, located.relays.len()) {
        (true, 1) => format!("SRV          {} names a relay", located.service),
        (true, count) => format!("SRV          {} names {count} relays", located.service),
        (false, _) => {
            format!("SRV          {} does not exist: the domain itself stands for its relay", located.service)
        }
    });
    Ok(located)
}

/// Visits every address of every relay.
pub(crate) async fn visit(
    located: &Located,
    login: Option<&Login>,
    connection: &ConnectionArguments,
    report: &mut Report,
) -> Result<(), Failure> {
    // Trust that cannot be set up is an error of the caller alone.
    connection.security()?;
    let mut problems = Problems::default();
    let mut relays = Vec::new();
    for relay in &located.relays {
        let LocatedRelay { priority, weight, target, .. } = relay;
        report.lines.push(format!("relay        {target}, priority {priority}, weight {weight}"));
        let mut visits = Vec::new();
        match &relay.addresses {
            Err(reason) => {
                report.lines.push(format!("  FAILED     {} {reason}", target.host));
                problems.add(Stage::Connecting, || format!("{} {reason}", target.host));
            }
            Ok(addresses) => {
                report.lines.push(format!("  addresses  {}", families(addresses)));
                for address in addresses {
                    let mut visit = Visit {
                        relay: target,
                        address: *address,
                        connection,
                        report,
                        problems: &mut problems,
                    };
                    visits.push(visit.run(login).await);
                }
            }
        }
        relays.push(json!({
            "host": target.host, "port": target.port, "priority": priority, "weight": weight,
            "error": relay.addresses.as_ref().err().map(NoAddress::to_string), "addresses": visits,
        }));
    }
    report.json["relays"] = json!(relays);
    problems.conclude()
}

fn families(addresses: &[IpAddr]) -> String {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    let list = |addresses: Vec<&IpAddr>, family| match addresses.is_empty() {
        true => format!("no {family}"),
        false => addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(", "),
    };
    format!("{}; {}", list(v4, "IPv4"), list(v6, "IPv6"))
}

/// `1 day`, `90 days`, of a time in seconds.
fn days(seconds: i64) -> String {
    counted(usize::try_from(seconds / DAY).unwrap_or(0), "day")
}

/// What went wrong so far.
#[derive(Default)]
struct Problems {
    first: Option<(Stage, String)>,
    count: usize,
}

impl Problems {
    fn add(&mut self, stage: Stage, words: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(|| (stage, words()));
    }

    fn conclude(self) -> Result<(), Failure> {
        match self.first {
            None => Ok(()),
            Some((stage, first)) => Err(Failure::Domain { count: self.count, stage, first }),
        }
    }
}

/// One address of one relay.
struct Visit<'a> {
    relay: &'a Target,
    address: IpAddr,
    connection: &'a ConnectionArguments,
    report: &'a mut Report,
    problems: &'a mut Problems,
}

impl Visit<'_> {
    async fn run(&mut self, login: Option<&Login>) -> Value {
        let mut json = json!({ "address": self.address });
        let began = Instant::now();
        match self.connect().await {
            Err(error) => {
                json["error"] = json!(error.to_string());
                self.failed(&error);
                if matches!(error, ClientError::Handshake { .. }) {
                    self.look_closer(&mut json).await;
                }
            }
            Ok(mut endpoint) => {
                let took = began.elapsed();
                json["connect_seconds"] = json!(took.as_secs_f64());
                self.say(format!("connected  to {} in {}", endpoint.peer(), millis(took)));
                if let Some(facts) = endpoint.tls().cloned() {
                    self.describe(&facts, &mut json);
                    json["tls"]["verified"] = json!(!self.connection.insecure);
                    self.say(match self.connection.insecure {
                        true => "trust      not checked (--insecure)".to_owned(),
                        false => format!("trust      chain and name are good for {}", self.name()),
                    });
                    self.versions(&mut json).await;
                }
                if let Some(login) = login {
                    self.authenticate(login, &mut endpoint, &mut json).await;
                }
                // Everything has been seen.
                let _ = endpoint.close().await;
            }
        }
        json
    }

    /// The name that the certificate must be for: the relay's, whatever the address.
    fn name(&self) -> &str {
        self.connection.server_name.as_deref().unwrap_or(&self.relay.host)
    }

    fn target(&self) -> Target {
        Target { host: self.address.to_string(), port: self.relay.port, web: None }
    }

    async fn connect(&self) -> Result<Endpoint, ClientError> {
        let security = self.connection.security_for(Some(self.name()))?;
        Endpoint::connect(&self.target(), &security, self.connection.connect_timeout).await
    }

    /// What the relay shows to a client that accepts any certificate, to say why it is not trusted.
    async fn look_closer(&mut self, json: &mut Value) {
        let limit = self.connection.connect_timeout;
        if let Some(facts) = observe_any(&self.target(), self.name(), limit).await {
            self.describe(&facts, json);
        }
    }

    async fn versions(&mut self, json: &mut Value) {
        let mut spoken = Vec::new();
        for (version, name) in [(TlsVersion::Tls13, "1.3"), (TlsVersion::Tls12, "1.2")] {
            let limit = self.connection.connect_timeout;
            if observe(&self.target(), self.name(), version, limit).await.is_some() {
                spoken.push(name);
            }
        }
        self.say(format!("versions   TLS {}", spoken.join(", ")));
        json["tls"]["versions"] = json!(spoken);
    }

    async fn authenticate(&mut self, login: &Login, endpoint: &mut Endpoint, json: &mut Value) {
        match login.ask(endpoint).await {
            Ok(grant) => {
                let realm = grant.realm.as_deref().unwrap_or("none");
                let expires = grant
                    .expires
                    .map_or_else(|| "no Expires".to_owned(), |seconds| format!("Expires {seconds} s"));
                let took = millis(grant.challenge_took + grant.answer_took);
                self.say(format!("AUTH       accepted in {took}; realm {}; {expires}", text::shown(realm)));
                json["auth"] =
                    json!({ "realm": grant.realm, "expires": grant.expires, "use_path": grant.use_path });
            }
            Err(error) => {
                json["auth"] = json!({ "error": error.to_string() });
                self.failed(&error);
            }
        }
    }

    /// TLS and the certificate, with what is wrong or soon will be. The dates count by our clock.
    fn describe(&mut self, facts: &TlsFacts, json: &mut Value) {
        self.say(format!("TLS        {}, {}, {}", facts.version, facts.suite, facts.group));
        json["tls"] = json!({ "version": facts.version, "suite": facts.suite, "group": facts.group });
        let Some(certificate) = facts.certificates.first() else { return };
        let names = covered_names(certificate);
        let covered = listed(&names);
        let described = Described::of(certificate);
        json["tls"]["names"] = json!(names);
        json["tls"]["certificate"] = described.json();
        let Some((from, to)) = validity(certificate) else {
            return self.say(format!("names      {covered}; validity unreadable"));
        };
        let chain = counted(facts.certificates.len(), "certificate");
        self.say(format!("names      {covered}; {chain} in the chain"));
        for line in described.lines() {
            self.say(line);
        }
        json["tls"]["not_before"] = json!(from);
        json["tls"]["not_after"] = json!(to);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|now| i64::try_from(now.as_secs()).ok());
        let (Some(now), Some(begins), Some(ends)) = (now, epoch_seconds(&from), epoch_seconds(&to)) else {
            return;
        };
        json["tls"]["days_left"] = json!((ends - now) / DAY);
        self.say(if now < begins {
            format!("validity   from {from} on, which is still to come by this machine's clock: is the clock right?")
        } else if now > ends {
            format!("validity   ended {to}, {} ago by this machine's clock: renew it", days(now - ends))
        } else if ends - now < EXPIRY_DAYS_MIN * DAY {
            format!("validity   until {to}: ONLY {} left", days(ends - now))
        } else {
            format!("validity   until {to}, {} left", days(ends - now))
        });
    }

    fn say(&mut self, words: String) {
        self.report.lines.push(format!("  {words}"));
    }

    fn failed(&mut self, error: &ClientError) {
        let at = SocketAddr::new(self.address, self.relay.port);
        self.say(format!("FAILED     {error}"));
        self.problems.add(error.stage(), || format!("{} at {at}: {error}", self.relay.host));
    }
}
