//! `msrp probe`: how a relay, or the relays of a domain, look from here.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use msrp_client::{ClientError, Endpoint, Grant, Target, TlsFacts};
use serde_json::json;
use untrusted::text;

use crate::domain;
use crate::observed::{Described, millis, observe_any};
use crate::options::{ConnectionArguments, Login, RelayArguments};
use crate::outcome::{Failure, Report, conclude};
use crate::watchdog::run_until_interrupted;

/// Certificates of one chain that are shown: more than any server needs.
const CERTIFICATES_SHOWN_MAX: usize = 5;

const EXAMPLES: &str = "\
Examples:
  SRV, addresses and TLS of every relay of the domain, then with AUTH:
    msrp probe example.com
    msrp probe example.com --user alice@example.com
  One relay, without looking for it; one with a self-signed certificate:
    msrp probe --relay relay.example.com
    msrp probe --relay localhost --ca localhost.crt --user alice@example.com
  The second one as it is reached through the first:
    msrp probe --relay edge.example.com --relay relay.example.net \\
               --user alice@example.com
  One that is known by its address, whose accounts are those of the SIP domain:
    msrp probe --relay 192.0.2.1:2855 --server-name relay.example.com \\
               --user alice@example.com --auth-uri 'msrps://example.com;tcp'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("relays", |relays| relays.required_unless_present("domain")))]
pub(crate) struct Arguments {
    /// Find the relays of this SIP domain by SRV _msrps._tcp, and look at each by each of its addresses
    #[arg(value_name = "DOMAIN", conflicts_with = "relays")]
    domain: Option<String>,
    /// Print the result as one JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    relay: RelayArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let as_json = arguments.json;
    let mut report = Report { lines: Vec::new(), json: json!({}) };
    let result = match &arguments.domain {
        Some(domain) => probe_domain(&arguments, domain, &mut report),
        None => arguments.relay.login(&arguments.connection).and_then(|login| {
            run_until_interrupted(arguments.connection.cpu, as_json, probe(&arguments, login, &mut report))
        }),
    };
    conclude(as_json, report, result)
}

fn probe_domain(arguments: &Arguments, domain: &str, report: &mut Report) -> Result<(), Failure> {
    let connection = &arguments.connection;
    // Clients address AUTH to their domain, without a port, whichever relay serves it.
    let at = Target { host: domain.to_owned(), port: 2855, web: None };
    let login = arguments.relay.login_to(&at, domain, connection)?;
    let located = domain::ask(domain, arguments.relay.dns, connection, report)?;
    run_until_interrupted(
        connection.cpu,
        arguments.json,
        domain::visit(&located, login.as_ref(), connection, report),
    )
}

async fn probe(arguments: &Arguments, login: Option<Login>, report: &mut Report) -> Result<(), Failure> {
    let connection = &arguments.connection;
    let Some(relay) = arguments.relay.relays.first() else {
        return Err(Failure::Usage("--relay is needed".to_owned()));
    };
    let security = connection.security()?;
    let began = Instant::now();
    let connected = Endpoint::connect(relay, &security, connection.connect_timeout).await;
    if let Err(error @ ClientError::Handshake { .. }) = &connected {
        look_closer(relay, connection, &error.to_string(), report).await;
    }
    let mut endpoint = connected?;
    let took = began.elapsed();
    let (local, peer) = (endpoint.local(), endpoint.peer());
    report.lines.push(format!("connected    {peer} from {local} in {}", millis(took)));
    report.json["address"] = json!(peer);
    report.json["connect_seconds"] = json!(took.as_secs_f64());
    match endpoint.tls() {
        Some(facts) => {
            describe_tls(facts, report);
            let trusted = match connection.insecure {
                true => "not checked (--insecure)",
                false => "trusted, and for this name",
            };
            report.lines.push(format!("trust        {trusted}"));
            report.json["tls"]["verified"] = json!(!connection.insecure);
        }
        None => report.lines.push("TLS          none".to_owned()),
    }
    if let Some(login) = login {
        report.json["auth_of_each"] = json!([]);
        let asked = login.ask_each(&mut endpoint, |uri, grant| describe_grant(uri, grant, report)).await;
        if let Err(ClientError::AuthRefused { realm: Some(realm), .. }) = &asked {
            report.lines.push(format!("realm        {}; AUTH refused", text::shown(realm)));
            report.json["refused_by_realm"] = json!(realm);
        }
        asked?;
    }
    // Everything has been seen.
    let _ = endpoint.close().await;
    Ok(())
}

/// What the relay shows to a client that accepts any certificate: the user of an untrusted relay wants to see it.
async fn look_closer(relay: &Target, connection: &ConnectionArguments, wrong: &str, report: &mut Report) {
    let name = connection.server_name.as_deref().unwrap_or(&relay.host);
    let Some(facts) = observe_any(relay, name, connection.connect_timeout).await else { return };
    describe_tls(&facts, report);
    report.lines.push(format!("trust        NOT TRUSTED: {wrong}"));
    report.json["tls"]["verified"] = json!(false);
}

fn describe_tls(facts: &TlsFacts, report: &mut Report) {
    report.lines.push(format!("TLS          {}, {}, {}", facts.version, facts.suite, facts.group));
    let shown = facts.certificates.iter().take(CERTIFICATES_SHOWN_MAX);
    let described: Vec<_> = shown.map(Described::of).collect();
    for (index, one) in described.iter().enumerate() {
        let label = if index == 0 { "certificate" } else { "behind it  " };
        let named = if index == 0 { format!("{}; ", one.covered) } else { String::new() };
        let period = match &one.validity {
            Some((from, to)) => format!("valid {from} to {to}"),
            None => "validity unreadable".to_owned(),
        };
        report.lines.push(format!("{label}  {named}{period}"));
        report.lines.extend(one.lines().into_iter().map(|line| format!("  {line}")));
    }
    if facts.certificates.len() > described.len() {
        report.lines.push(format!("             and {} more", facts.certificates.len() - described.len()));
    }
    report.json["tls"] = json!({
        "version": facts.version,
        "suite": facts.suite,
        "group": facts.group,
        "certificates": described.iter().map(Described::json).collect::<Vec<_>>(),
    });
}

/// What one relay grants; with several relays, the last grant counts.
fn describe_grant(uri: &str, grant: &Grant, report: &mut Report) {
    let (realm, algorithm) =
        (grant.realm.as_deref().unwrap_or("none"), grant.algorithm.map(|one| one.as_str()));
    let proof = if grant.proved { "and proved itself" } else { "without proving itself" };
    let (challenge, answer) = (millis(grant.challenge_took), millis(grant.answer_took));
    report.lines.extend([
        format!("relay        {uri}"),
        format!("AUTH         accepted, {proof}; challenge in {challenge}, answer in {answer}"),
        format!("realm        {} ({})", text::shown(realm), algorithm.unwrap_or("no digest")),
        format!("Use-Path     {}", grant.use_path.join(" ")),
        grant.expires.map_or_else(
            || "Expires      not said".to_owned(),
            |seconds| format!("Expires      {seconds} s"),
        ),
    ]);
    let auth = json!({
        "auth_uri": uri,
        "realm": grant.realm,
        "algorithm": algorithm,
        "relay_proved_itself": grant.proved,
        "use_path": grant.use_path,
        "path_for_peers": grant.path_for_peers(),
        "expires": grant.expires,
        "challenge_seconds": grant.challenge_took.as_secs_f64(),
        "answer_seconds": grant.answer_took.as_secs_f64(),
    });
    if let Some(each) = report.json["auth_of_each"].as_array_mut() {
        each.push(auth.clone());
    }
    report.json["auth"] = auth;
}
