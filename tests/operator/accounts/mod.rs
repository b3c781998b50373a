//! Accounts where operators have them: a MariaDB or PostgreSQL with the tables of OpenSIPS and Kamailio, a file of our
//! own, the config; and everything that can go wrong with them while clients authenticate.
//!
//! Each database is a real one in a temporary directory, started by the test and ended with it, also if it fails.
//! Outages are events: a server is killed, stopped or locked, and the test checks what clients hear then.

/// Makes of each function, which is generic over the server, a test for every kind of server there is.
macro_rules! on_each_server {
    ($($name:ident),* $(,)?) => {
        mod mysql {
            $(#[test]
            fn $name() {
                super::$name::<testkit_net::mariadb::MariaDb>();
            })*
        }
        mod postgres {
            $(#[test]
            fn $name() {
                super::$name::<testkit_net::postgres::Postgres>();
            })*
        }
    };
}

mod figures;
mod outages;
mod plain_relay;
mod reload;
mod shared_secrets;
mod sqlite;
mod subscribers;
