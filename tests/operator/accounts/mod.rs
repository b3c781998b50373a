//! Accounts where operators have them: a MariaDB with the tables of OpenSIPS and Kamailio, a file of our own, the
//! config; and everything that can go wrong with them while clients authenticate.
//!
//! Each MariaDB is a real one in a temporary directory, started by the test and ended with it, also if it fails.
//! Outages are events: a server is killed, stopped or locked, and what clients are told then is looked at.

mod figures;
mod outages;
mod plain_relay;
mod reload;
mod sqlite;
mod subscribers;
