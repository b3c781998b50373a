//! `msrprelay user`: the users of `auth.backend: sqlite`, managed by hand or by scripts.
//!
//! Passwords come from a prompt or from standard input, never from the command line, which every user can read.
//! Invariant: root reads the config, and then works on the file as the user who owns its directory.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use msrprelay::config::{Backend, Config};
use msrprelay::control::{User, UserFile};
use untrusted::say;
use untrusted::{files, text};

use crate::named::{Served, complain};
use crate::report::{CONFIG_PATH, Reported, load};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The config that names the file, the realm and the domains.
    #[arg(short, long, global = true, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,
    /// The file itself; no config is read then.
    #[arg(long, global = true, value_name = "FILE")]
    database: Option<PathBuf>,
    /// With --database: the realm, where it is not the user's domain.
    #[arg(long, global = true, value_name = "REALM", requires = "database")]
    realm: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Adds a user; makes the file if it is not there.
    ///
    /// The password is asked for twice; where standard input is no terminal, its first line is the password.
    Add {
        /// The user, such as alice@example.com; alice alone where the config has a realm.
        user: String,
    },
    /// Gives a user another password.
    Passwd {
        /// The user.
        user: String,
    },
    /// Removes a user. Sessions that the user has go on until they end.
    Remove {
        /// The user.
        user: String,
    },
    /// Lists the users, one on a line.
    List,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Reported> {
    let place = Place::of(arguments)?;
    let file = &place.file;
    let refused = |error: std::io::Error| complain(format!("{}: {error}", file.display()));
    if let Some(owner) = files::foreign_owner(file).map_err(refused)? {
        files::become_user(&owner).map_err(refused)?;
    }
    let outcome = match &arguments.command {
        Command::Add { user } => {
            let user = place.user(user)?;
            check_new_name(&user)?;
            let password = password(&user)?;
            let file = UserFile::open_or_make(&place.file).map_err(complain)?;
            let done = format!("{} is added to {}", shown(&user), place.file.display());
            let not = format!("there is a user {} already: use passwd", shown(&user));
            (file.add(&user, &password), done, not)
        }
        Command::Passwd { user } => {
            let user = place.user(user)?;
            let file = UserFile::open(&place.file).map_err(complain)?;
            let password = password(&user)?;
            let done = format!("{} has another password", shown(&user));
            (file.set_password(&user, &password), done, unknown(&user))
        }
        Command::Remove { user } => {
            let user = place.user(user)?;
            let file = UserFile::open(&place.file).map_err(complain)?;
            let done = format!("{} is removed; sessions that are open go on until they end", shown(&user));
            (file.remove(&user), done, unknown(&user))
        }
        Command::List => {
            let file = UserFile::open(&place.file).map_err(complain)?;
            for user in file.list().map_err(complain)? {
                // A reader that stops early, such as `head`, has seen enough.
                let _ = say::out(&shown(&user));
            }
            return Ok(());
        }
    };
    match outcome {
        (Ok(true), done, _) => {
            // The change is made, even if its report cannot be written.
            let _ = say::out(&done);
            Ok(())
        }
        (Ok(false), _, not) => Err(complain(not)),
        (Err(error), ..) => Err(complain(error)),
    }
}

fn shown(user: &User) -> String {
    format!("{}@{}", text::shown(&user.name), text::shown(&user.realm))
}

/// A name that no client can type, or no person can read, is a mistake. Existing ones can still be removed.
fn check_new_name(user: &User) -> Result<(), Reported> {
    let odd = |c: char| c.is_whitespace() || matches!(c, '"' | '\\' | '<' | '>') || !text::is_plain(c);
    match user.name.chars().chain(user.realm.chars()).find(|c| odd(*c)) {
        None => Ok(()),
        Some(odd) => Err(complain(format!(
            "\"{}\" holds {odd:?}, which no user's name has: write it as alice@example.com",
            shown(user)
        ))),
    }
}

fn unknown(user: &User) -> String {
    format!("there is no user {}: see msrprelay user list", shown(user))
}

/// The file of the users, and the realms they may have.
struct Place {
    file: PathBuf,
    served: Served,
}

impl Place {
    fn of(arguments: &Arguments) -> Result<Self, Reported> {
        match &arguments.database {
            Some(file) => {
                let served = Served { realm: arguments.realm.clone(), domains: None };
                Ok(Self { file: file.clone(), served })
            }
            None => Self::from_config(&arguments.config, load(&arguments.config)?),
        }
    }

    fn from_config(path: &Path, config: Config) -> Result<Self, Reported> {
        match config.auth.backend {
            Backend::Sqlite(sqlite) => {
                let served = Served { realm: config.realm, domains: config.domains };
                Ok(Self { file: sqlite.path, served })
            }
            _ => Err(complain(format!(
                "{}: auth.backend is not sqlite: write `backend: sqlite` there, or name the file with --database",
                path.display()
            ))),
        }
    }

    /// The user as a digest names one. The hash is made for the realm, so it must be the relay's.
    fn user(&self, text: &str) -> Result<User, Reported> {
        let (name, realm) = self.served.user(text)?;
        Ok(User { name, realm })
    }
}

fn password(user: &User) -> Result<String, Reported> {
    let password = match std::io::stdin().is_terminal() {
        true => prompted(user)?,
        false => {
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            read.map_err(|error| complain(format!("no password on standard input: {error}")))?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    match password.is_empty() {
        true => Err(complain("the password is empty: give one")),
        false => Ok(password),
    }
}

fn prompted(user: &User) -> Result<String, Reported> {
    let ask = |prompt: String| {
        rpassword::prompt_password(prompt).map_err(|error| complain(format!("no password: {error}")))
    };
    let password = ask(format!("Password of {}: ", shown(user)))?;
    match ask("Once more: ".to_owned())? == password {
        true => Ok(password),
        false => Err(complain("the two are not the same: nothing has changed")),
    }
}
