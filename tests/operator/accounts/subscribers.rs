//! What a database says of its subscribers, and what the relay makes of it.

use msrp_proto::digest::Algorithm;

use super::plain_relay::{Account, PlainRelay};
use testkit_net::account::DOMAIN;
use testkit_net::bounded;
use testkit_net::mariadb::MariaDb;
use testkit_net::subscribers::{Database, Proxy};

/// What docs/operate/accounts.md describes: its GRANT and no more, its keys and no more.
#[test]
fn an_opensips_site_authenticates_its_users_by_the_hashes_alone() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        site.add("alice", "example.org", "another");
        let relay = PlainRelay::start(&site.keys(""));
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert!(relay.server.accounts_ready());
        // Somebody else of that name, elsewhere.
        let elsewhere = Account { domain: "example.org", ..Account::of("alice", "another") };
        assert_eq!(relay.attempt(&elsewhere).status(), Some(200));
        for (user, password) in [("alice", "another"), ("alice", ""), ("bob", "wonderland"), ("", "")] {
            assert_eq!(relay.status(user, password), 401, "{user}");
        }
        let nowhere = Account { domain: "example.net", ..Account::of("alice", "wonderland") };
        assert_eq!(relay.attempt(&nowhere).status(), Some(401));
        // What was granted is all there is: the password in clear cannot be read.
        let reading_passwords = PlainRelay::start(&site.keys(", cleartext_passwords: true"));
        assert_eq!(reading_passwords.status("alice", "wonderland"), 408);
        assert!(!reading_passwords.server.accounts_ready());
    });
}

#[test]
fn a_kamailio_site_authenticates_its_users_by_hash_or_by_password() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::Kamailio);
        site.add("alice", DOMAIN, "wonderland");
        let by_hash = PlainRelay::start(&site.keys(""));
        assert_eq!(by_hash.status("alice", "wonderland"), 200);
        assert_eq!(by_hash.status("alice", "Wonderland"), 401);
        site.grant_passwords();
        // Where there is the password, there is every algorithm.
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

// A client may choose the algorithm for which its account has no hash. It is refused like anybody else.
#[test]
fn sha_256_works_where_there_is_a_hash_for_it_and_looks_like_a_wrong_password_elsewhere() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        site.add("bob", DOMAIN, "builder");
        site.run("UPDATE subscriber SET ha1_sha256 = '' WHERE username = 'bob'");
        let keys = site.keys(", ha1_sha256_column: ha1_sha256") + ", algorithms: [sha-256, md5]";
        let relay = PlainRelay::start(&keys);
        let sha256 = |user, password| Account { algorithm: Algorithm::Sha256, ..Account::of(user, password) };
        assert_eq!(relay.attempt(&sha256("alice", "wonderland")).status(), Some(200));
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert_eq!(relay.status("bob", "builder"), 200);
        let refusals = [sha256("bob", "builder"), sha256("alice", "x"), sha256("nobody", "x")].map(|login| {
            let answer = relay.attempt(&login);
            let names: Vec<_> = answer.head.headers(&answer.bytes).map(|(name, _)| name.to_vec()).collect();
            (answer.status(), names)
        });
        assert_eq!(refusals[0].0, Some(401));
        assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    });
}

#[test]
fn a_hundred_thousand_subscribers_are_no_more_trouble_than_one() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
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

#[test]
fn names_are_values_whatever_is_in_them() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::Kamailio);
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

// The database thinks that Alice is alice; a digest does not, and neither do limits that are counted by user.
#[test]
fn a_name_must_be_spelt_as_it_is_stored_unless_the_operator_trusts_the_database() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
        site.grant_passwords();
        site.add("alice", DOMAIN, "wonderland");
        assert_eq!(site.run("SELECT COUNT(*) FROM subscriber WHERE username = 'ALICE '").trim(), "1");
        let spellings = ["ALICE", "Alice", "alice ", "\u{e1}lice"];
        let clear = ", cleartext_passwords: true";
        let trusting = ", exact_usernames: false";
        for (more, expected) in [
            (String::new(), 401),
            (clear.to_owned(), 401),
            // The stored hash is of the stored name: no client that spells it in another way can prove anything.
            (trusting.to_owned(), 401),
            (format!("{clear}{trusting}"), 200),
        ] {
            let relay = PlainRelay::start(&site.keys(&more));
            for user in spellings {
                assert_eq!(relay.status(user, "wonderland"), expected, "{user:?} {more}");
                assert_eq!(relay.status(user, "Wonderland"), 401, "{user:?} {more}");
            }
            assert_eq!(relay.status("alice", "wonderland"), 200);
        }
    });
}

// In Latin-1 there is no such name, and the server says so with an error. Nobody may bring the accounts down by that.
#[test]
fn names_that_the_database_cannot_hold_are_unknown_and_do_it_no_harm() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::with_charset(&server, Proxy::Kamailio, "latin1");
        site.add("j\u{fc}rgen", DOMAIN, "gr\u{fc}n");
        let relay = PlainRelay::start(&site.keys(", connections_max: 1"));
        for _ in 0..10 {
            for user in ["\u{5f20}", "\u{1f600}", "j\u{fc}rgen\u{5f20}"] {
                assert_eq!(relay.status(user, "x"), 401, "{user}");
            }
            assert!(relay.server.accounts_ready());
        }
        let hash = "MD5(CONVERT(CONCAT(username, ':', domain, ':', password) USING utf8mb4))";
        site.run(&format!("UPDATE subscriber SET ha1 = {hash}"));
        assert_eq!(relay.status("j\u{fc}rgen", "gr\u{fc}n"), 200);
    });
}

#[test]
fn an_account_without_a_password_is_open_to_nobody() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::Kamailio);
        site.grant_passwords();
        site.run("INSERT INTO subscriber (username, domain, ha1) VALUES ('empty', 'example.com', '')");
        site.run("ALTER TABLE subscriber MODIFY password VARCHAR(64) NULL, MODIFY ha1 VARCHAR(128) NULL");
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

#[test]
fn without_domains_a_name_must_be_one_account() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::Kamailio);
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

#[test]
fn tables_and_columns_may_have_any_name_that_is_one() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::Kamailio);
        site.add("alice", DOMAIN, "wonderland");
        let name = &site.name;
        site.run(&format!(
            "RENAME TABLE subscriber TO `select-$`;
             ALTER TABLE `select-$` CHANGE ha1 `where` VARCHAR(128), CHANGE username `benutzer-\u{e4}` VARCHAR(64);
             GRANT SELECT ON {name}.`select-$` TO '{name}'@'%'"
        ));
        let keys = site.keys(&format!(
            ", table: '{name}.select-$', username_column: 'benutzer-\u{e4}', ha1_column: where"
        ));
        let relay = PlainRelay::start(&keys);
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert_eq!(relay.status("alice", "x"), 401);
    });
}

// Remembered for a time if the operator says so, and then only who was found.
#[test]
fn a_new_password_counts_at_once_unless_accounts_are_remembered() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
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
