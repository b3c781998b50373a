//! The server as an operator has it: config, accounts, commands, signals, log lines, metrics, upgrades, documents, package.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod accounting;
mod accounts;
mod admin;
mod config;
mod conformance;
mod dashboard;
mod document_links;
mod documents;
mod drain;
mod hostile_files;
mod import_config;
mod log_lines;
mod metrics;
mod one_place;
mod process;
mod reload;
mod service;
mod tables;
mod upgrade;
mod words;
