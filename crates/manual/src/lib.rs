//! Man pages and shell completions, made from the definition of `--help`, and the page of the config, made from its
//! sample.
//!
//! They are written as they lie under `/usr/share`, so that a package takes the directory as it is. Commands that
//! `--help` hides are hidden here. No word is hyphenated, and a formatter may not turn a typed sign into a
//! typographical one, so that a command can be copied from a page.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::{Resettable, StyledStr};
use clap_complete::Shell;
use clap_mangen::Man;

use untrusted::files::{PUBLIC, replace};

mod config_page;

pub use config_page::write_config_page;

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

/// The page of a command and the pages of its subcommands.
fn pages(
    command: &Command,
    section: &str,
    chapters: &[Chapter<'_>],
    directory: &Path,
    files: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    // The text below the options of `--help` would lose its line breaks.
    let page = Man::new(command.clone().after_help(Resettable::Reset).after_long_help(Resettable::Reset))
        .title(name.to_uppercase())
        .section(section)
        .source(SOURCE);
    let mut text = Vec::new();
    page.render(&mut text)?;
    let mut text = String::from_utf8(text).map_err(io::Error::other)?;
    if let Some(below) = command.get_after_help() {
        examples(&below.to_string(), &mut text);
    }
    for (title, paragraphs) in chapters {
        text += &format!(".SH \"{title}\"\n");
        for paragraph in *paragraphs {
            text += &format!(".PP\n{}\n", escaped(paragraph));
        }
    }
    write_page(directory, (&name, section), &text, files)?;
    command.get_subcommands().try_for_each(|below| pages(below, section, &[], directory, files))
}

/// What the pages name as their source.
const SOURCE: &str = concat!("msrprelay ", env!("CARGO_PKG_VERSION"));

/// Where the package installs the files that the programs name by their place in the sources.
const PACKAGED: [(&str, &str); 4] = [
    ("scripts/", "/usr/share/msrprelay/"),
    ("config.yaml.sample", "/usr/share/doc/msrprelay/config.yaml.sample"),
    ("docs/", "/usr/share/doc/msrprelay/docs/"),
    ("deploy/", "/usr/share/doc/msrprelay/deploy/"),
];

/// A line of text for a formatter, which would take a dash for a hyphen and a dot in front for a command.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}

/// Typed signs, which a formatter would print as others that look alike.
fn typed(text: &str) -> String {
    text.replace('`', "\\(ga").replace('^', "\\(ha").replace('~', "\\(ti")
}

/// The text below the options of `--help`: indented lines stay lines, the others are paragraphs.
fn examples(text: &str, page: &mut String) {
    let (mut is_example, mut begins) = (false, true);
    for line in text.lines() {
        let indented = line.strip_prefix("  ");
        if is_example && indented.is_none() {
            *page += ".EE\n";
            begins = true;
        }
        match indented {
            Some(line) => {
                *page += if is_example { "" } else { ".PP\n.EX\n" };
                *page += &format!("{}\n", escaped(line));
            }
            None if line == "Examples:" => *page += ".SH \"EXAMPLES\"\n",
            None if line.is_empty() => begins = true,
            None => {
                let start = match page.contains(".SH \"NOTES\"") {
                    _ if !begins => "",
                    true => ".PP\n",
                    false => ".SH \"NOTES\"\n",
                };
                *page += &format!("{start}{}\n", escaped(line));
                begins = false;
            }
        }
        is_example = indented.is_some();
    }
    *page += if is_example { ".EE\n" } else { "" };
}

/// Writes a page, with what all pages have in common.
fn write_page(
    directory: &Path,
    (name, section): (&str, &str),
    text: &str,
    files: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let (mut page, mut is_text) = (String::new(), false);
    for line in text.lines() {
        let is_title = line.starts_with(".TH ");
        // The macros set hyphenation anew at the title.
        page += if is_title { ".nr HY 0\n" } else { "" };
        page += &if is_text { typed(&packaged(line)) } else { line.to_owned() };
        page += if is_title { "\n.nh\n.ad l\n" } else { "\n" };
        is_text |= is_title;
    }
    write_file(directory.join(format!("man/man{section}/{name}.{section}")), page.as_bytes(), files)
}

/// A line with the package's places instead of the sources'.
fn packaged(line: &str) -> String {
    let mut line = line.to_owned();
    for (source, place) in PACKAGED {
        let mut done = String::new();
        let mut rest = line.as_str();
        while let Some(at) = rest.find(source) {
            let (before, from) = rest.split_at(at);
            let is_part = before.ends_with(|c: char| c == '/' || c.is_alphanumeric());
            done += before;
            done += if is_part { source } else { place };
            rest = from.strip_prefix(source).unwrap_or_default();
        }
        line = done + rest;
    }
    line
}

fn write_file(path: PathBuf, text: &[u8], files: &mut Vec<PathBuf>) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    replace(&path, PUBLIC, text)?;
    files.push(path);
    Ok(())
}

/// A command cannot be taken out, so all others go into a new one.
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
