//! Man pages and shell completions, made from the same definition as `--help`.
//!
//! They are written as they lie under `/usr/share`, so that a package takes the directory as it is. Commands that are
//! hidden from `--help` are hidden here.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::StyledStr;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::files::{PUBLIC, replace};

/// A further section of a program's own page: its title, and its text in paragraphs.
pub type Chapter<'a> = (&'a str, &'a [&'a str]);

/// Writes the pages of `program`, which is called `name`, and of its commands, in `section` of the manual, and its completions under
/// `directory`. Returns the files.
///
/// # Errors
/// If one of them cannot be written.
pub fn write(
    program: &Command,
    name: &'static str,
    section: &str,
    chapters: &[Chapter<'_>],
    directory: &Path,
) -> io::Result<Vec<PathBuf>> {
    let mut program = without_hidden(program, name);
    program.build();
    let mut files = Vec::new();
    pages(&program, section, chapters, directory, &mut files)?;
    let completions = [
        (Shell::Bash, format!("bash-completion/completions/{name}")),
        (Shell::Zsh, format!("zsh/vendor-completions/_{name}")),
        (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
    ];
    for (shell, path) in completions {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut program, name, &mut script);
        write_file(directory.join(path), &script, &mut files)?;
    }
    Ok(files)
}

/// The page of a command, and those of what is below it.
fn pages(
    command: &Command,
    section: &str,
    chapters: &[Chapter<'_>],
    directory: &Path,
    files: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let page = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(section)
        .source(format!("msrprelay {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text)?;
    for (title, paragraphs) in chapters {
        writeln!(text, ".SH \"{title}\"")?;
        for paragraph in *paragraphs {
            writeln!(text, ".PP\n{}", paragraph.replace('\\', "\\e").replace('-', "\\-"))?;
        }
    }
    write_file(directory.join(format!("man/man{section}/{name}.{section}")), &text, files)?;
    command.get_subcommands().try_for_each(|below| pages(below, section, &[], directory, files))
}

fn write_file(path: PathBuf, text: &[u8], files: &mut Vec<PathBuf>) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    replace(&path, PUBLIC, text)?;
    files.push(path);
    Ok(())
}

/// There is no taking a command out, so everything else is put into a new one.
fn without_hidden(command: &Command, name: &'static str) -> Command {
    let shown = command.get_subcommands().filter(|below| !below.is_hide_set()).cloned();
    let mut rebuilt = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(shown)
        .disable_help_subcommand(true)
        .subcommand_required(command.is_subcommand_required_set())
        .args_conflicts_with_subcommands(command.is_args_conflicts_with_subcommands_set());
    for (text, set) in [
        (command.get_about(), Command::about as fn(Command, StyledStr) -> Command),
        (command.get_long_about(), Command::long_about),
        (command.get_after_help(), Command::after_help),
    ] {
        if let Some(text) = text {
            rebuilt = set(rebuilt, text.clone());
        }
    }
    rebuilt
}
