//! What all commands share: the server and the user, the relays, trust, passwords.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use msrp_client::{
    AuthOptions, ClientError, Credentials, Endpoint, Grant, Offer, Route, Security, Stage, Target, Trust,
    authenticate, authenticate_through, locate,
};
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, Path};
use untrusted::say;
use untrusted::text;

use crate::outcome::Failure;
use crate::units::parse_duration;

/// The environment variable for passwords.
const PASSWORD_VARIABLE: &str = "MSRP_PASSWORD";

/// The least time to wait for the answer of a relay beyond the first one. Relays on the way give up after half a minute
/// (RFC 4976, 6.4.1), and their 408 then says more than silence.
const FORWARDED_AUTH_LIMIT_MIN: Duration = Duration::from_secs(35);

/// The relays and the user.
#[derive(Debug, Args)]
#[command(next_help_heading = "Relay")]
pub(crate) struct RelayArguments {
    /// Authenticate as this user (`alice@example.com`; the name before the `@` is what the relay checks). With several
    /// relays: once for all, or once for each
    #[arg(long = "user", value_name = "USER@DOMAIN")]
    pub(crate) users: Vec<String>,
    /// The relay, or `wss://HOST[:PORT][/PATH]` for WebSocket [default port: 2855, or 443] [default: what the DNS says of the user's domain]. Several times: be behind all of
    /// them, the nearest one first; each further one is asked for its URI through those before it, and the options for the
    /// connection are for the first one
    #[arg(long = "relay", value_name = "HOST:PORT")]
    pub(crate) relays: Vec<Target>,
    /// The relay's URI in the To-Path of AUTH [default: msrps://HOST:PORT;tcp of the relay, ;ws by WebSocket; some relays are addressed by
    /// their SIP domain]. With several relays: the first one is the first relay's, and so on
    #[arg(long = "auth-uri", value_name = "URI", requires = "users", value_parser = parse_uri)]
    pub(crate) auth_uris: Vec<String>,
    /// Ask for a URI that lives this long [default: as long as the connection; at relays further out, as long as they say]
    #[arg(long, value_name = "SECONDS", requires = "users")]
    pub(crate) expires: Option<u64>,
    /// Put a `uri` into the credentials, as some relays want it whose digest authentication is that of SIP
    #[arg(long, requires = "users")]
    pub(crate) digest_uri: bool,
    /// Read the password from this file's first line. With several relays: once for all, or once for each
    #[arg(long = "password-file", value_name = "FILE", requires = "users")]
    pub(crate) password_files: Vec<PathBuf>,
    /// Ask this name server for the user's domain [default: the system's]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "relays")]
    pub(crate) dns: Option<SocketAddr>,
}

/// The connection.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArguments {
    /// Trust the certificates in this PEM file (authorities, or self-signed ones) [default: the system's authorities]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Accept any certificate: encrypted, but with whom is not known
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Check the certificate for this name [default: the host that is dialled]
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// No TLS (`msrp:`); relays hardly ever accept AUTH this way
    #[arg(long, conflicts_with_all = ["ca", "insecure", "server_name"])]
    pub(crate) plain: bool,
    /// How long each of TCP connect, TLS handshake and AUTH may take; AUTH through another relay may take 35 s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Run on this CPU only
    #[arg(long, value_name = "N")]
    pub(crate) cpu: Option<usize>,
}

/// The output.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArguments {
    /// Print the result as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// Show progress even if stderr is not a terminal
    #[arg(long)]
    pub(crate) progress: bool,
}

/// Everything needed to ask the relays, collected before the first connection.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) relay: Target,
    /// The routes to the first relay, or to equal ones, in the order to try them; none: the name is enough.
    pub(crate) routes: Vec<Route>,
    pub(crate) credentials: Credentials,
    pub(crate) options: AuthOptions,
    /// The user with the domain, as given: it tells which realm is meant.
    user: String,
    /// The relays beyond the first one, nearest first.
    further: Vec<FurtherRelay>,
}

/// A relay that is reached through others.
#[derive(Debug)]
struct FurtherRelay {
    user: String,
    credentials: Credentials,
    options: AuthOptions,
}

impl RelayArguments {
    /// Asks for the passwords and assembles the login; `None` without `--user`.
    pub(crate) fn login(&self, connection: &ConnectionArguments) -> Result<Option<Login>, Failure> {
        match (self.users.first(), self.relays.as_slice()) {
            (Some(_), [relay, further @ ..]) => {
                let login = self.login_to(relay, &relay.to_string(), connection)?;
                login.map(|login| self.with_further(login, further, connection)).transpose()
            }
            (Some(user), []) => match user.split_once('@') {
                Some((_, domain)) => self.login_by_domain(domain, connection),
                None => Err(Failure::Usage(format!("--user {user} needs --relay, or a domain behind an @"))),
            },
            (None, [_, _, ..]) => Err(Failure::Usage(
                "more than one --relay needs --user: those behind the first are reached by AUTH".to_owned(),
            )),
            (None, _) => Ok(None),
        }
    }

    /// The user, password and URI for each relay must be clear.
    fn check_numbers(&self) -> Result<(), Failure> {
        let relays = self.relays.len().max(1);
        for (option, count) in [("--user", self.users.len()), ("--password-file", self.password_files.len())]
        {
            if count > 1 && count != relays {
                let what =
                    format!("{count} times {option} for {relays} --relay: once for all, or once for each");
                return Err(Failure::Usage(what));
            }
        }
        if self.auth_uris.len() > relays {
            let count = self.auth_uris.len();
            return Err(Failure::Usage(format!("{count} times --auth-uri for {relays} --relay")));
        }
        Ok(())
    }

    /// Asks the DNS for the relays of a domain. AUTH is addressed to the domain, whichever relay serves it.
    fn login_by_domain(
        &self,
        domain: &str,
        connection: &ConnectionArguments,
    ) -> Result<Option<Login>, Failure> {
        let located = locate(domain, self.dns, connection.connect_timeout)?;
        let mut routes = located.routes(random_below);
        let Some(first) = routes.first() else {
            let reasons = located.relays.iter().filter_map(|relay| {
                relay.addresses.as_ref().err().map(|reason| format!("{} {reason}", relay.target.host))
            });
            let reasons = reasons.collect::<Vec<_>>().join("; ");
            let source = std::io::Error::other(reasons);
            return Err(ClientError::Resolve { host: domain.to_owned(), source }.into());
        };
        let login = self.login_to(&first.relay.clone(), domain, connection)?;
        Ok(login.map(|login| Login { routes: std::mem::take(&mut routes), ..login }))
    }

    /// The same for a relay that was found, addressed as `authority` unless the options say otherwise.
    pub(crate) fn login_to(
        &self,
        relay: &Target,
        authority: &str,
        connection: &ConnectionArguments,
    ) -> Result<Option<Login>, Failure> {
        let Some(user) = self.users.first() else {
            return Ok(None);
        };
        self.check_numbers()?;
        let scheme = if connection.plain { "msrp" } else { "msrps" };
        let uri = self.auth_uris.first().cloned().unwrap_or_else(|| {
            let transport = if relay.web.is_some() { "ws" } else { "tcp" };
            format!("{scheme}://{authority};{transport}")
        });
        Ok(Some(Login {
            relay: relay.clone(),
            routes: Vec::new(),
            credentials: Credentials {
                user: name_of(user).to_owned(),
                password: self.password(user, self.password_files.first())?,
            },
            options: AuthOptions {
                uri,
                expires: self.expires,
                digest_uri: self.digest_uri,
                limit: connection.connect_timeout,
            },
            user: user.clone(),
            further: Vec::new(),
        }))
    }

    /// Adds the relays beyond the first one. Relays always use TLS between them (RFC 4976, 9.2).
    fn with_further(
        &self,
        mut login: Login,
        relays: &[Target],
        connection: &ConnectionArguments,
    ) -> Result<Login, Failure> {
        for (at, relay) in (1..).zip(relays) {
            let user = self.users.get(at).or_else(|| self.users.first()).map_or("", String::as_str);
            let credentials = match (self.users.get(at), self.password_files.get(at)) {
                // The tool asks for the same password only once.
                (None, None) => login.credentials.clone(),
                (_, file) => {
                    let password = self.password(user, file.or_else(|| self.password_files.first()))?;
                    Credentials { user: name_of(user).to_owned(), password }
                }
            };
            let uri = self.auth_uris.get(at).cloned().unwrap_or_else(|| format!("msrps://{relay};tcp"));
            let limit = connection.connect_timeout.max(FORWARDED_AUTH_LIMIT_MIN);
            let options = AuthOptions { uri, expires: self.expires, digest_uri: self.digest_uri, limit };
            login.further.push(FurtherRelay { user: user.to_owned(), credentials, options });
        }
        Ok(login)
    }

    fn password(&self, user: &str, file: Option<&PathBuf>) -> Result<String, Failure> {
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::Usage(format!("--password-file {}: {}", file.display(), text::of_io(&error)))
            })?;
            return match text.lines().next() {
                Some(password) if !password.is_empty() => Ok(password.to_owned()),
                _ => Err(Failure::Usage(format!(
                    "--password-file {}: its first line is empty",
                    file.display()
                ))),
            };
        }
        if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
            return Ok(password);
        }
        if !std::io::stderr().is_terminal() {
            return Err(Failure::Usage(format!("no password: use --password-file or {PASSWORD_VARIABLE}")));
        }
        rpassword::prompt_password(format!("Password of {user}: "))
            .map_err(|error| Failure::Usage(format!("no password: {error}")))
    }
}

/// The part that a relay checks: the name before the `@`.
fn name_of(user: &str) -> &str {
    user.split_once('@').map_or(user, |(name, _)| name)
}

impl Login {
    /// Connects to the first relay and fetches URIs from all.
    pub(crate) async fn perform(
        &self,
        connection: &ConnectionArguments,
    ) -> Result<(Endpoint, Grant), ClientError> {
        let mut endpoint = self.connect(connection).await?;
        let grant = self.ask(&mut endpoint).await?;
        Ok((endpoint, grant))
    }

    /// Connects to the first relay that can be connected to.
    async fn connect(&self, connection: &ConnectionArguments) -> Result<Endpoint, ClientError> {
        let limit = connection.connect_timeout;
        let mut failure = None;
        for route in &self.routes {
            let security = connection.security_for(Some(&route.relay.host))?;
            match Endpoint::connect(&route.target(), &security, limit).await {
                Err(error) if error.stage() == Stage::Connecting => {
                    say::err(&format!("msrp: {} at {}: {error}", route.relay, route.address));
                    failure = Some(error);
                }
                connected => return connected,
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Endpoint::connect(&self.relay, &connection.security()?, limit).await,
        }
    }

    /// When the session ends although its connection lasts: if the user asked for that, and always at relays beyond the
    /// first, which have no connection of ours.
    pub(crate) fn ends_after(&self, grant: &Grant) -> Option<u64> {
        grant.expires.filter(|_| self.options.expires.is_some() || !self.further.is_empty())
    }

    /// Fetches URIs over an existing connection; the grant is for the whole way.
    pub(crate) async fn ask(&self, endpoint: &mut Endpoint) -> Result<Grant, ClientError> {
        self.ask_each(endpoint, |_, _| ()).await
    }

    /// The same, showing what each relay grants, and its URI in AUTH.
    pub(crate) async fn ask_each(
        &self,
        endpoint: &mut Endpoint,
        mut granted: impl FnMut(&str, &Grant),
    ) -> Result<Grant, ClientError> {
        let mut grant = authenticate(endpoint, &self.credentials, &self.options)
            .await
            .map_err(|error| about_realm(error, &self.user, &self.options.uri))?;
        granted(&self.options.uri, &grant);
        for FurtherRelay { user, credentials, options } in &self.further {
            grant = authenticate_through(endpoint, &grant, credentials, options)
                .await
                .map_err(|error| about_realm(error, user, &options.uri))?;
            granted(&options.uri, &grant);
        }
        Ok(grant)
    }
}

/// A relay refuses every user whose account is not in its realm: the error then says so, and what to do.
fn about_realm(error: ClientError, user: &str, asked: &str) -> ClientError {
    let ClientError::AuthRefused { relay, by, status, comment, realm: Some(realm), hint } = error else {
        return error;
    };
    let hint = match user.split_once('@') {
        Some((_, domain)) if status == Status::UNAUTHORIZED && !domain.eq_ignore_ascii_case(&realm) => {
            let realm = text::shown(&realm);
            let host = MsrpUri::parse(asked.as_bytes()).map(|uri| uri.host_str().to_owned());
            let other_way = match host.is_ok_and(|host| host.eq_ignore_ascii_case(domain)) {
                true => String::new(),
                false => {
                    format!("ask for the realm of your account with --auth-uri 'msrps://{domain};tcp', or ")
                }
            };
            format!(
                " (its realm is {realm}, which cannot match {user} unless there is such an account, too: {other_way}have its \
                 operator write `realm: {domain}` into its config)"
            )
        }
        _ => hint,
    };
    ClientError::AuthRefused { relay, by, status, comment, realm: Some(realm), hint }
}

impl ConnectionArguments {
    /// TLS as the options say, or none.
    pub(crate) fn security(&self) -> Result<Security, ClientError> {
        if self.plain { Ok(Security::Plain) } else { self.tls() }
    }

    /// The same, with a name to check where the options give none.
    pub(crate) fn security_for(&self, name: Option<&str>) -> Result<Security, ClientError> {
        if self.plain {
            return Ok(Security::Plain);
        }
        self.tls_for(Offer::Everything, self.server_name.as_deref().or(name))
    }

    /// TLS as the options say.
    pub(crate) fn tls(&self) -> Result<Security, ClientError> {
        self.tls_offering(Offer::Everything)
    }

    /// TLS as the options say, with no more on offer than this.
    pub(crate) fn tls_offering(&self, offer: Offer) -> Result<Security, ClientError> {
        self.tls_for(offer, self.server_name.as_deref())
    }

    fn tls_for(&self, offer: Offer, name: Option<&str>) -> Result<Security, ClientError> {
        let trust = match (&self.ca, self.insecure) {
            (Some(file), _) => Trust::File(file.clone()),
            (None, true) => Trust::Anybody,
            (None, false) => Trust::System,
        };
        Security::tls_offering(offer, &trust, name)
    }
}

/// A number below another, all nearly equally likely.
fn random_below(below: u32) -> u32 {
    // Without randomness every client takes the first one, which is better than a failure.
    u32::try_from(getrandom::u64().unwrap_or(0) % u64::from(below.max(1))).unwrap_or(0)
}

/// A URI as a command-line argument.
pub(crate) fn parse_uri(text: &str) -> Result<String, String> {
    MsrpUri::parse(text.as_bytes()).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A path as a command-line argument: one space between URIs, however they were separated.
pub(crate) fn parse_path(text: &str) -> Result<String, String> {
    let path = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for uri in Path::new(path.as_bytes()).uris() {
        MsrpUri::parse(uri).map_err(|error| format!("{}: {error}", String::from_utf8_lossy(uri)))?;
    }
    if path.is_empty() { Err("at least one URI is needed".to_owned()) } else { Ok(path) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_of_uris() {
        let path = " msrps://r.example:2855/abc;tcp   msrps://192.0.2.1:9/x;tcp\n";
        assert_eq!(parse_path(path).unwrap(), "msrps://r.example:2855/abc;tcp msrps://192.0.2.1:9/x;tcp");
        assert!(parse_path("").is_err());
        assert!(parse_path("msrps://r.example:2855/abc;tcp nonsense").is_err());
    }
}
