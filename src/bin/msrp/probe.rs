//! `msrp probe`: what a relay, or the relays of a domain, look like from here.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use msrprelay::client::{Endpoint, Grant, Target, TlsFacts, covered_names, validity};
use msrprelay::text;
use serde_json::json;

use crate::domain;
use crate::options::{ConnectionArguments, Login, RelayArguments};
use crate::outcome::{Failure, Report, conclude, run_until_interrupted};

const EXAMPLES: &str = "\
Examples:
  msrp probe example.com                     SRV, addresses, TLS of every relay of the domain
  msrp probe example.com --user alice@example.com --password-file secret
  msrp probe --relay relay.example.com       one relay, without looking for it
  msrp probe --relay relay.example.com --user alice@example.com --password-file secret
  msrp probe --relay edge.example.com --relay relay.example.net --user alice@example.com
                                             the second one as it is reached through the first
  msrp probe --relay 192.0.2.1:2855 --server-name relay.example.com --user alice@example.com \\
             --auth-uri 'msrps://example.com;tcp'";

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
    let at = Target { host: domain.to_owned(), port: 2855 };
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
    let mut endpoint = Endpoint::connect(relay, &security, connection.connect_timeout).await?;
    let took = began.elapsed();
    let (local, peer) = (endpoint.local(), endpoint.peer());
    report.lines.push(format!("connected    {peer} from {local} in {}", millis(took)));
    report.json["address"] = json!(peer);
    report.json["connect_seconds"] = json!(took.as_secs_f64());
    match endpoint.tls() {
        Some(facts) => describe_tls(facts, connection.insecure, report),
        None => report.lines.push("TLS          none".to_owned()),
    }
    if let Some(login) = login {
        report.json["auth_of_each"] = json!([]);
        login.ask_each(&mut endpoint, |uri, grant| describe_grant(uri, grant, report)).await?;
    }
    // Everything that was to be seen has been seen.
    let _ = endpoint.close().await;
    Ok(())
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn describe_tls(facts: &TlsFacts, insecure: bool, report: &mut Report) {
    report.lines.push(format!("TLS          {}, {}, {}", facts.version, facts.suite, facts.group));
    let mut certificates = Vec::new();
    for (index, certificate) in facts.certificates.iter().enumerate() {
        let names = covered_names(certificate);
        let (not_before, not_after) = validity(certificate).unzip();
        let label = if index == 0 { "certificate" } else { "issued by  " };
        let period = match (&not_before, &not_after) {
            (Some(from), Some(to)) => format!("valid {from} to {to}"),
            _ => "validity unreadable".to_owned(),
        };
        let covered = domain::listed(&names);
        report.lines.push(format!("{label}  {covered}; {period}"));
        certificates.push(json!({ "names": names, "not_before": not_before, "not_after": not_after }));
    }
    let trusted = if insecure { "not checked (--insecure)" } else { "trusted, and for this name" };
    report.lines.push(format!("trust        {trusted}"));
    report.json["tls"] = json!({
        "version": facts.version,
        "suite": facts.suite,
        "group": facts.group,
        "certificates": certificates,
        "verified": !insecure,
    });
}

/// What one relay grants; with several of them the last one's is what counts.
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
