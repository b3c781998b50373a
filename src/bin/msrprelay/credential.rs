//! `msrprelay credential`: a user name and a password that expire by themselves, signed with the first of
//! `auth.shared_secrets`, for tests and for scripts that have no HMAC of their own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use msrprelay::control::SharedSecrets;
use serde_json::json;
use untrusted::{say, text};

use crate::named::{Served, complain};
use crate::report::{CONFIG_PATH, Reported, load, report};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The user, such as alice@example.com; alice alone where the config has a realm.
    user: String,
    /// How long it is good: 90s, 15m, 1h, 7d; ttl_max of the secret at most.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// Prints one line of JSON.
    #[arg(long)]
    json: bool,
    /// The config that has the secret.
    #[arg(short, long, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,
}

fn ttl(text: &str) -> Result<Duration, String> {
    match msrprelay::config::length_of_time(text)? {
        ttl if ttl.as_secs() > 0 => Ok(ttl),
        _ => Err("is no time at all: write 1s or more".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Reported> {
    let config = load(&arguments.config)?;
    let secrets = SharedSecrets::new(&config.auth.shared_secrets);
    let served = Served { realm: config.realm, domains: config.domains };
    let (name, realm) = served.user(&arguments.user)?;
    let made = secrets.sign(&name, arguments.ttl, SystemTime::now());
    let credential = made.map_err(|error| complain(format!("{}: {error}", arguments.config.display())))?;
    let (username, password) = (&credential.username, &credential.password);
    let (ttl, expires) = (arguments.ttl.as_secs(), credential.expires);
    let written = match arguments.json {
        true => say::out_json(
            &json!({"username": username, "password": password, "realm": realm, "ttl": ttl, "expires": expires}),
        ),
        false => say::out_lines(&format!(
            "username  {}\npassword  {password}\nrealm     {}\nttl       {ttl}\nexpires   {expires}",
            text::shown(username),
            text::shown(&realm)
        )),
    };
    // A credential that cannot be read is none.
    written.map_err(|error| report(format!("msrprelay: standard output: {error}")))
}
