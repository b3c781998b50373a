//! `msrprelay import-config`: another relay's config, read from a file and written to one.
//!
//! Invariant: passwords go to a new file that only its owner can read, and nowhere else.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use msrprelay::ops::import::{self, Imported, Secrets};
use untrusted::files;
use untrusted::say;
use untrusted::text;

use crate::report::{Reported, report};

const EXAMPLES: &str = "\
Examples:
  Look at what would be written, write it, and check it:
    msrprelay import-config /etc/msrprelay/config.ini
    msrprelay import-config /etc/msrprelay/config.ini --out config.yaml
    msrprelay check-config config.yaml";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The other relay's config.ini.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the config to this new file, passwords included, readable by you alone.
    ///
    /// Without it the config goes to standard output, with LEFT-OUT where passwords belong.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Reported> {
    let file = &arguments.file;
    let named = |problem: &dyn std::fmt::Display| report(format!("{}: {problem}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| named(&text::of_io(&error)))?;
    let absolute = std::path::absolute(file).map_err(|error| named(&error))?;
    let directory = absolute.parent().unwrap_or_else(|| Path::new("/"));
    let imported = import::import(&text, directory).map_err(|error| named(&error))?;
    for note in &imported.notes {
        say::err(&format!("{}: {note}", file.display()));
    }
    let origin = file.display().to_string();
    match &arguments.out {
        Some(out) => save(&imported, &origin, out),
        None => {
            // The operator's own config, for a file.
            let _ = say::out_verbatim(&imported.yaml(&origin, Secrets::LeftOut));
            if imported.holds_secrets() {
                say::err("Passwords are left out here; --out FILE writes them.");
            }
            Ok(())
        }
    }
}

fn save(imported: &Imported, origin: &str, out: &Path) -> Result<(), Reported> {
    let yaml = imported.yaml(origin, Secrets::Written);
    let written = files::write_new(out, files::SECRET, yaml.as_bytes());
    let out = out.display();
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            report(format!("{out}: is there already: remove it or choose another name"))
        }
        _ => report(format!("{out}: {}", text::of_io(&error))),
    })?;
    say::err(&format!("{out} is written, readable by you alone. Now: msrprelay check-config {out}"));
    Ok(())
}
