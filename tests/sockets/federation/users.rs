//! Relays of one federation, and the tool as their users' client.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;
use testkit_net::account::password;
use testkit_net::tool::{self, Receiver, self_signed};
use testkit_net::{assert_same, contents};

use super::relays::{Relay, Relays, Wish};

/// Bytes of a file that is sent: more than any buffer on the way holds.
const FILE: usize = 3 << 20;

/// The first letter of a relay's name: `a` is `a.osier.example`.
pub(crate) type Name = char;

/// Relays `a` to `d`, which trust each other as relays, and `e`, which trusts none.
pub(crate) struct Federation {
    relays: Vec<(Name, Relay)>,
    place: TempDir,
    _names: Relays,
}

impl Federation {
    pub(crate) fn start(names: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let all = Relays::new();
        fs::write(place.path().join("ca.crt"), all.authority.pem()).unwrap();
        for user in ["alice", "bob"] {
            fs::write(place.path().join(user), password(user)).unwrap();
        }
        fs::write(place.path().join("wrong"), "not it\n").unwrap();
        let start =
            |name| (name, all.relay_with(host(name), &Wish { takes_relays: name != 'e', ..all.wish() }));
        let relays = names.chars().map(start).collect();
        Self { relays, place, _names: all }
    }

    pub(crate) fn port(&self, name: Name) -> u16 {
        self.relay(name).address().port()
    }

    pub(crate) fn relay(&self, name: Name) -> &Relay {
        &self.relays.iter().find(|(known, _)| *known == name).unwrap().1
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The options of a user behind these relays, nearest first. Only relays know their names: the first one is dialled
    /// by its address.
    pub(crate) fn behind(&self, user: &str, relays: &str) -> Vec<String> {
        let Some(first) = relays.chars().next() else {
            return Vec::new();
        };
        let mut options = vec![
            format!("--user={user}@example.com"),
            format!("--password-file={user}"),
            format!("--relay={}", self.relay(first).address()),
            format!("--server-name={}", host(first)),
            format!("--auth-uri={}", self.relay(first).uri()),
        ];
        let further = relays.chars().skip(1);
        options.extend(further.map(|name| format!("--relay={}:{}", host(name), self.port(name))));
        options
    }

    pub(crate) fn msrp(&self, arguments: &[&str], options: &[String]) -> Command {
        let mut command = tool::msrp(self.place.path(), arguments);
        command.args(options).args(["--ca", "ca.crt"]);
        command
    }

    pub(crate) fn probe(&self, user: &str, relays: &str) -> Output {
        self.msrp(&["probe", "--json"], &self.behind(user, relays)).output().unwrap()
    }

    /// Starts a receiver and waits for its path.
    pub(crate) fn receiver(&self, name: &str, options: &[String]) -> Receiver {
        let inbox = self.inbox(name);
        fs::create_dir_all(&inbox).unwrap();
        let mut command = self.msrp(&["receive", "--timeout", "60s"], options);
        let receiver = Receiver::start(command.arg("--out").arg(&inbox));
        if receiver.path.is_empty() {
            panic!("{name} has no path: {:?}\n{}", receiver.finish(), self.logs());
        }
        receiver
    }

    fn inbox(&self, name: &str) -> PathBuf {
        self.file(&format!("for-{name}"))
    }

    /// A receiver ends well, and has received this.
    pub(crate) fn assert_received(&self, to: &str, receiver: Receiver, name: &str, data: &[u8]) {
        let (status, said) = receiver.finish();
        assert_eq!(status, 0, "{said}");
        assert_same(&fs::read(self.inbox(to).join(name)).unwrap(), data);
    }

    /// A file from one user to another, each behind these relays; an empty list: behind none, listening.
    pub(crate) fn send_a_file(&self, from: (&str, &str), to: (&str, &str), seed: u64) {
        let options = match to.1 {
            "" => self.listening(),
            relays => self.behind(to.0, relays),
        };
        let receiver = self.receiver(to.0, &options);
        let uris = receiver.path.split(' ').count();
        assert_eq!(uris, to.1.len() + 1, "all relays are in the path: {}", receiver.path);
        let (name, data) = (format!("film{seed}"), contents(seed, FILE));
        fs::write(self.file(&name), &data).unwrap();
        let arguments = ["send", &name, "--to", &receiver.path];
        let sent = self.msrp(&arguments, &self.behind(from.0, from.1)).output().unwrap();
        let said = String::from_utf8_lossy(&sent.stderr);
        assert!(sent.status.success(), "{said}\n{}", self.logs());
        self.assert_received(to.0, receiver, &name, &data);
    }

    /// Receives on a port of its own, with a self-signed certificate, as endpoints have.
    fn listening(&self) -> Vec<String> {
        self_signed(&["127.0.0.1"], self.file("own.crt"), self.file("own.key"));
        ["--listen=127.0.0.1:0", "--cert=own.crt", "--key=own.key"].map(str::to_owned).into()
    }

    pub(crate) fn logs(&self) -> String {
        let log = |(name, relay): &(Name, Relay)| format!("-- {name}\n{}", relay.process.log());
        self.relays.iter().map(log).collect()
    }
}

pub(crate) fn host(name: Name) -> &'static str {
    match name {
        'a' => "a.osier.example",
        'b' => "b.alder.example",
        'c' => "c.alder.example",
        'd' => "d.rowan.example",
        _ => "e.rowan.example",
    }
}
