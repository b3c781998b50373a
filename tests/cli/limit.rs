//! An end for scripted partners that wait in vain.

use std::time::Duration;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Ends a test whose partner never does the awaited thing.
pub(crate) async fn alarm() {
    glommio::timer::sleep(LIMIT).await;
    panic!("nothing came of it within the time limit");
}
