//! The subscribers of a database, and the relay's answers.

use msrp_proto::digest::Algorithm;

use super::plain_relay::{Account, PlainRelay};
use testkit_net::account::DOMAIN;
use testkit_net::bounded;
use testkit_net::postgres::Postgres;
use testkit_net::sql::SqlServer;
use testkit_net::subscribers::{Database, Proxy};

on_each_server! {
    an_opensips_site_authenticates_its_users_by_the_hashes_alone,
    a_kamailio_site_authenticates_its_users_by_hash_or_by_password,
    sha_256_works_where_there_is_a_hash_for_it_and_looks_like_a_wrong_password_elsewhere,
    a_hundred_thousand_subscribers_are_no_more_trouble_than_one,
    names_are_values_whatever_is_in_them,
    a_name_must_be_spelt_as_it_is_stored_unless_the_operator_trusts_the_database,
    a_domain_may_be_stored_in_any_case,
    names_that_the_database_cannot_hold_are_unknown_and_do_it_no_harm,
    account_without_a_password_admits_no_client,
    without_domains_a_name_must_be_one_account,
    tables_and_columns_may_have_any_name_that_is_one,
    a_new_password_counts_at_once_unless_accounts_are_remembered,
}

/// What docs/operate/accounts.md describes: its GRANT and no more, its keys and no more.
fn an_opensips_site_authenticates_its_users_by_the_hashes_alone<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        site.add("alice", "example.org", "another");
        let relay = PlainRelay::start(&site.keys(""));
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert!(relay.server.accounts_ready());
        // Another user with that name, in another domain.
        let elsewhere = Account { domain: "example.org", ..Account::of("alice", "another") };
        assert_eq!(relay.attempt(&elsewhere).status(), Some(200));
        for (user, password) in [("alice", "another"), ("alice", ""), ("bob", "wonderland"), ("", "")] {
            assert_eq!(relay.status(user, password), 401, "{user}");
        }
        let nowhere = Account { domain: "example.net", ..Account::of("alice", "wonderland") };
        assert_eq!(relay.attempt(&nowhere).status(), Some(401));
        // The granted rights are the only ones: the password in clear cannot be read.
        let reading_passwords = PlainRelay::start(&site.keys(", cleartext_passwords: true"));
        assert_eq!(reading_passwords.status("alice", "wonderland"), 408);
        assert!(!reading_passwords.server.accounts_ready());
    });
}

fn a_kamailio_site_authenticates_its_users_by_hash_or_by_password<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::Kamailio);
        site.add("alice", DOMAIN, "wonderland");
        let by_hash = PlainRelay::start(&site.keys(""));
        assert_eq!(by_hash.status("alice", "wonderland"), 200);
        assert_eq!(by_hash.status("alice", "Wonderland"), 401);
        site.grant_passwords();
        // With the password, every algorithm works.
        let keys = site.keys(", cleartext_passwords: true") + ", algorithms: [sha-256, md5]";
        let by_password = PlainRelay::start(&keys);
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let login = Account { algorithm, ..Account::of("alice", "wonderland") };
            assert_eq!(by_password.attempt(&login).status(), Some(200));
            let wrong = Account { password: "x", ..login };
            assert_eq!(by_password.attempt(&wrong).status(), Some(401));
        }
    });
}

// A client may choose the algorithm for which its account has no hash. It gets the same refusal as others.
fn sha_256_works_where_there_is_a_hash_for_it_and_looks_like_a_wrong_password_elsewhere<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        site.add("bob", DOMAIN, "builder");
        site.run("UPDATE subscriber SET ha1_sha256 = '' WHERE username = 'bob'");
        let keys = site.keys(", ha1_sha256_column: ha1_sha256") + ", algorithms: [sha-256, md5]";
        let relay = PlainRelay::start(&keys);
        let sha256 = |user, password| Account { algorithm: Algorithm::Sha256, ..Account::of(user, password) };
        assert_eq!(relay.attempt(&sha256("alice", "wonderland")).status(), Some(200));
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert_eq!(relay.status("bob", "builder"), 200);
        let refusals = [sha256("bob", "builder"), sha256("alice", "x"), sha256("absent", "x")].map(|login| {
            let answer = relay.attempt(&login);
            let names: Vec<_> = answer.head.headers(&answer.bytes).map(|(name, _)| name.to_vec()).collect();
            (answer.status(), names)
        });
        assert_eq!(refusals[0].0, Some(401));
        assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    });
}

fn a_hundred_thousand_subscribers_are_no_more_trouble_than_one<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add_many(100_000);
        assert_eq!(site.run("SELECT COUNT(*) FROM subscriber").trim(), "100000");
        let relay = PlainRelay::start(&site.keys(""));
        for n in (1..=100_000).step_by(4_999) {
            let user = format!("user{n}");
            assert_eq!(relay.status(&user, &format!("secret of {user}")), 200);
            assert_eq!(relay.status(&user, &format!("secret of user{}", n + 1)), 401);
        }
    });
}

fn names_are_values_whatever_is_in_them<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::Kamailio);
        site.grant_passwords();
        site.add("alice", DOMAIN, "wonderland");
        let names = [
            "o'hara",
            "\"quoted\"",
            "50%",
            "under_score",
            "back\\slash",
            "j\u{fc}rgen",
            "\u{5f20}\u{4f1f}",
            "\u{1f600}",
            "semi;colon",
            "-- ",
            "a b",
            "`tick`",
            "' OR '1'='1",
            "%",
            "*",
        ];
        for name in names {
            site.add(name, DOMAIN, &format!("p of {name}"));
        }
        for keys in [site.keys(""), site.keys(", cleartext_passwords: true")] {
            let relay = PlainRelay::start(&keys);
            for name in names {
                assert_eq!(relay.status(name, &format!("p of {name}")), 200, "{name}");
                assert_eq!(relay.status(name, "wonderland"), 401, "{name}");
            }
            for name in ["al%", "alic_", "alice' -- ", "alice'; DROP TABLE subscriber; -- ", "' OR 1=1 -- "] {
                assert_eq!(relay.status(name, "wonderland"), 401, "{name}");
            }
            assert_eq!(relay.status("alice", "wonderland"), 200);
        }
    });
}

// A database may think that Alice is alice; a digest does not, and neither do limits that are counted by user.
fn a_name_must_be_spelt_as_it_is_stored_unless_the_operator_trusts_the_database<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        // MySQL compares without regard to case, to accents, to spaces at the end; PostgreSQL as it is written.
        let found = site.run("SELECT COUNT(*) FROM subscriber WHERE username = 'ALICE '");
        let lax = if found.trim() == "1" { 200 } else { 401 };
        assert_eq!(lax == 200, S::BACKEND == "mysql");
        spellings_are_told_apart(
            &site,
            &[("ALICE", lax), ("Alice", lax), ("alice ", lax), ("\u{e1}lice", lax)],
        );
    });
}

// As sites have it that want their PostgreSQL to be as lax as a MySQL.
#[test]
fn a_column_of_citext_leaves_case_to_the_database_and_nothing_else() {
    bounded(|| {
        let server = Postgres::shared();
        let site = Database::<Postgres>::new(&server, Proxy::Kamailio);
        site.run("CREATE EXTENSION citext; ALTER TABLE subscriber ALTER username TYPE citext, ALTER domain TYPE citext");
        site.add("alice", DOMAIN, "wonderland");
        spellings_are_told_apart(
            &site,
            &[("ALICE", 200), ("Alice", 200), ("alice ", 401), ("\u{e1}lice", 401)],
        );
    });
}

/// Each spelling, and what becomes of it where the database decides and the password is in clear.
fn spellings_are_told_apart<S: SqlServer>(site: &Database<'_, S>, spellings: &[(&str, u16)]) {
    site.grant_passwords();
    let clear = ", cleartext_passwords: true";
    let trusting = ", exact_usernames: false";
    for (more, is_lax) in [
        (String::new(), false),
        (clear.to_owned(), false),
        // The stored hash is of the stored name: no client that spells it in another way can prove anything.
        (trusting.to_owned(), false),
        (format!("{clear}{trusting}"), true),
    ] {
        let relay = PlainRelay::start(&site.keys(&more));
        for (user, lax) in spellings {
            let expected = if is_lax { *lax } else { 401 };
            assert_eq!(relay.status(user, "wonderland"), expected, "{user:?} {more}");
            assert_eq!(relay.status(user, "Wonderland"), 401, "{user:?} {more}");
        }
        assert_eq!(relay.status("alice", "wonderland"), 200);
    }
}

// Domains have no case, whatever the database thinks.
fn a_domain_may_be_stored_in_any_case<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::Kamailio);
        site.grant_passwords();
        site.add("alice", "Example.COM", "wonderland");
        let relay = PlainRelay::start(&site.keys(", cleartext_passwords: true"));
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert_eq!(relay.status("alice", "x"), 401);
    });
}

// Latin-1 has no such name, and the server answers with an error. No client may bring the accounts down by that.
fn names_that_the_database_cannot_hold_are_unknown_and_do_it_no_harm<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::with_encoding(&server, Proxy::Kamailio, Some(S::LATIN1));
        site.add("j\u{fc}rgen", DOMAIN, "gr\u{fc}n");
        let relay = PlainRelay::start(&site.keys(", connections_max: 1"));
        for _ in 0..10 {
            for user in ["\u{5f20}", "\u{1f600}", "j\u{fc}rgen\u{5f20}"] {
                assert_eq!(relay.status(user, "x"), 401, "{user}");
            }
            assert!(relay.server.accounts_ready());
        }
        let hash = S::md5_of_utf8("CONCAT(username, ':', domain, ':', password)");
        site.run(&format!("UPDATE subscriber SET ha1 = {hash}"));
        assert_eq!(relay.status("j\u{fc}rgen", "gr\u{fc}n"), 200);
    });
}

fn account_without_a_password_admits_no_client<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::Kamailio);
        site.grant_passwords();
        site.run("INSERT INTO subscriber (username, domain, ha1) VALUES ('empty', 'example.com', '')");
        for column in ["password", "ha1"] {
            server.make_nullable(&site.name, column);
        }
        site.run("INSERT INTO subscriber (username, domain, password, ha1) VALUES ('null', 'example.com', NULL, NULL)");
        site.run("INSERT INTO subscriber (username, domain, ha1) VALUES ('short', 'example.com', 'abc')");
        for keys in [site.keys(""), site.keys(", cleartext_passwords: true")] {
            let relay = PlainRelay::start(&keys);
            for user in ["empty", "null", "short"] {
                assert_eq!(relay.status(user, ""), 401, "{user}");
            }
            assert!(relay.server.accounts_ready());
        }
    });
}

fn without_domains_a_name_must_be_one_account<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::Kamailio);
        site.add("alice", "10.0.0.1", "wonderland");
        site.add("bob", "10.0.0.1", "builder");
        site.add("bob", "10.0.0.2", "builder");
        site.run(&format!("UPDATE subscriber SET ha1 = MD5(CONCAT(username, ':{DOMAIN}:', password))"));
        let ignoring = PlainRelay::start(&site.keys(", match_domain: false"));
        assert_eq!(ignoring.status("alice", "wonderland"), 200);
        assert_eq!(ignoring.status("bob", "builder"), 401);
        let matching = PlainRelay::start(&site.keys(""));
        assert_eq!(matching.status("alice", "wonderland"), 401);
    });
}

fn tables_and_columns_may_have_any_name_that_is_one<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::Kamailio);
        site.add("alice", DOMAIN, "wonderland");
        let [table, hash, user] = ["select-$", "where", "benutzer-\u{e4}"].map(S::quoted);
        site.run(&format!(
            "ALTER TABLE subscriber RENAME TO {table};
             ALTER TABLE {table} RENAME COLUMN ha1 TO {hash};
             ALTER TABLE {table} RENAME COLUMN username TO {user};
             GRANT SELECT ON {table} TO {}",
            S::account(&site.name)
        ));
        let keys = site.keys(&format!(
            ", table: '{}.select-$', username_column: 'benutzer-\u{e4}', ha1_column: where",
            S::qualifier(&site.name)
        ));
        let relay = PlainRelay::start(&keys);
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert_eq!(relay.status("alice", "x"), 401);
    });
}

// Remembered for a time if the operator allows it, and then only users that were found.
fn a_new_password_counts_at_once_unless_accounts_are_remembered<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let [at_once, later] =
            [", cache: off", ", cache: 1h"].map(|cache| PlainRelay::start(&(site.keys("") + cache)));
        for relay in [&at_once, &later] {
            assert_eq!(relay.status("alice", "wonderland"), 200);
            assert_eq!(relay.status("bob", "builder"), 401);
        }
        site.run("DELETE FROM subscriber");
        site.add("alice", DOMAIN, "looking-glass");
        site.add("bob", DOMAIN, "builder");
        assert_eq!(at_once.status("alice", "wonderland"), 401);
        assert_eq!(at_once.status("alice", "looking-glass"), 200);
        assert_eq!(later.status("alice", "wonderland"), 200);
        for relay in [&at_once, &later] {
            assert_eq!(relay.status("bob", "builder"), 200);
        }
    });
}

// What initdb has used since version 14, and older servers' way, which costs them nothing to keep.
#[test]
fn the_relays_own_account_logs_in_by_scram_and_by_md5() {
    bounded(|| {
        let server = Postgres::shared();
        let site = Database::<Postgres>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let stored = |kind: &str| {
            let query =
                format!("SELECT rolpassword LIKE '{kind}%' FROM pg_authid WHERE rolname = '{}'", site.name);
            site.run(&query).trim() == "t"
        };
        assert!(stored("SCRAM-SHA-256$"));
        assert_eq!(PlainRelay::start(&site.keys("")).status("alice", "wonderland"), 200);
        // A password that SASLprep has something to do with.
        server.set_password(&site.name, "only\u{a0}re\u{e4}ds");
        let keys = site.keys("").replace("only-reads", "only%20re%C3%A4ds");
        assert_eq!(PlainRelay::start(&keys).status("alice", "wonderland"), 200);
        let by_md5 = Postgres::with_access("local all all md5");
        let site = Database::<Postgres>::new(&by_md5, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        site.run(&format!("SET password_encryption = md5; ALTER ROLE {} PASSWORD 'only-reads'", site.name));
        assert_eq!(PlainRelay::start(&site.keys("")).status("alice", "wonderland"), 200);
    });
}
