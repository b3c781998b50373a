//! Many sessions at once: pairs on one core, whether the kernel has put them there or they have moved, and no byte of one in
//! another's file.

use testkit_net::endpoint::Endpoint;
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents, until};

const PAIRS: usize = 25;
const BYTES: usize = 400_000;

#[test]
fn fifty_sessions_on_two_cores_keep_every_byte_whether_they_have_moved_or_not() {
    bounded(|| {
        let relay = TestRelay::with(&Setup::default());
        let user = |n: usize| format!("user{n}");
        let mut pairs: Vec<(Endpoint, Endpoint)> =
            (0..PAIRS).map(|n| (relay.client(&user(2 * n)), relay.client(&user(2 * n + 1)))).collect();
        std::thread::scope(|scope| {
            for (n, (alice, bob)) in pairs.iter_mut().enumerate() {
                let path = bob.path();
                let chunk = (n % 2 == 0).then_some(10_000);
                scope.spawn(move || {
                    let data = contents(n as u64 + 1, BYTES + n);
                    alice.send_file(&Outgoing { chunk, ..Outgoing::giant(&path, &data) });
                });
                scope
                    .spawn(move || assert_same(&bob.receive_file().data, &contents(n as u64 + 1, BYTES + n)));
            }
        });
        // Both kinds of pairs are among them, except by a chance of one in sixteen million.
        let counted = until("all links to be counted", || {
            let counted = relay.counted();
            (counted.links_local + counted.links_split >= PAIRS as u64).then_some(counted)
        });
        assert!(counted.links_local > counted.sessions_moved, "{counted:?}");
        assert!(counted.sessions_moved > 0, "{counted:?}");
    });
}
