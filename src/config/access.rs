//! Whether this user can open the files that are opened later: the accounts, the records, the admin socket.
//!
//! Certificates, keys and CA files are read with the config, so their faults are known already. The kernel is asked, as
//! the present user; mode bits are not interpreted. No file is made.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::accounts::Backend;
use super::values::Accounting;
use super::walk::Problems;
use untrusted::files;

/// The service manager makes these before the relay starts, as deploy/msrprelay.service says.
const MADE_BY_THE_UNIT: [&str; 3] = ["/run/msrprelay", "/var/log/msrprelay", "/var/lib/msrprelay"];

/// Files that the config names and the running relay opens.
pub(super) struct Opened<'a> {
    pub(super) backend: &'a Backend,
    pub(super) accounting: Option<&'a Accounting>,
    pub(super) admin: Option<&'a Path>,
}

impl Opened<'_> {
    /// Adds every obstacle to `problems`.
    pub(super) fn check(&self, problems: &mut Problems, warnings: &mut Vec<String>) {
        let mut findings = Findings { problems, warnings };
        if let Backend::Sqlite(sqlite) = self.backend {
            findings.accounts(&sqlite.path);
        }
        if let Some(file) = self.accounting.and_then(|accounting| accounting.file.as_deref()) {
            findings.records(file);
        }
        if let Some(socket) = self.admin {
            findings.socket(socket);
        }
    }
}

struct Findings<'a> {
    problems: &'a mut Problems,
    warnings: &'a mut Vec<String>,
}

impl Findings<'_> {
    fn accounts(&mut self, path: &Path) {
        const KEY: &str = "auth.sqlite.path";
        match files::can_read_and_write(path) {
            Ok(()) => {}
            // The config has its own warning for a missing file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let why = explain(&error, "let the user the relay runs as read and write it");
                self.problems.add(KEY, format!("{}: {why}", path.display()));
            }
        }
        // SQLite makes the file's journals beside it.
        self.directory(KEY, path);
    }

    fn records(&mut self, path: &Path) {
        const KEY: &str = "accounting.file";
        match files::can_append(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.directory(KEY, path),
            Err(error) => {
                let why = explain(&error, "let the user the relay runs as write it");
                self.problems.add(KEY, format!("{}: {why}", path.display()));
            }
        }
    }

    fn socket(&mut self, path: &Path) {
        const KEY: &str = "admin.socket";
        if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
            let why = "is there and no socket: remove it, or name another path";
            self.problems.add(KEY, format!("{}: {why}", path.display()));
        }
        self.directory(KEY, path);
    }

    /// The relay must make files where `path` is.
    fn directory(&mut self, key: &str, path: &Path) {
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        let Err(error) = files::can_make_files_in(directory) else { return };
        let shown = directory.display();
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        if is_missing && MADE_BY_THE_UNIT.iter().any(|made| Path::new(made) == directory) {
            let who = "the unit of the package makes it when it starts the relay";
            return self.warnings.push(format!("{key}: {shown}: is not there yet; {who}"));
        }
        let why = match is_missing {
            true => "no such directory: create it, for the user the relay runs as".to_owned(),
            false => explain(&error, "let the user the relay runs as make files in it (chown, or chmod)"),
        };
        self.problems.add(key, format!("{shown}: {why}"));
    }
}

fn explain(error: &io::Error, remedy: &str) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("permission denied: {remedy}"),
        io::ErrorKind::NotADirectory => format!("is no directory, or below none: {remedy}"),
        _ => format!("{error}: {remedy}"),
    }
}
