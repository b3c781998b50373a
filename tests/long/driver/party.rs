//! One working end of a session: a thread that reads, checks and answers, one that writes, and the ledger between them,
//! which a scene waits for.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Wish};
use super::line::{Leave, Line};
use super::listen::{Ear, Manner};
use super::pen::{Job, Pen};
use super::stage::{Stage, add};
use super::visitor::Visitor;
use testkit_net::frame::{Frame, Request};

/// The longest wait for anything that must happen: longer than the 30 s that a next hop may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);

/// What a party's threads and its scene share.
pub(crate) struct Shared {
    pub(crate) stage: Arc<Stage>,
    pub(crate) uri: String,
    ledger: Mutex<Ledger>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // The ledger of a thread that died is still worth a look.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the ledger and wakes its waiters.
    pub(crate) fn enter<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let result = change(&mut self.ledger());
        self.changed.notify_all();
        result
    }
}

/// A message to send.
pub(crate) struct Outgoing {
    pub(crate) id: String,
    /// To-Path.
    pub(crate) to: String,
    pub(crate) total: u64,
    /// Bytes in a chunk; `None`: one giant SEND.
    pub(crate) chunk: Option<u64>,
    pub(crate) wish: Wish,
    pub(crate) success: bool,
    /// What happens after so many bytes of it.
    pub(crate) fate: Option<(u64, Fate)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The sender ends the connection.
    Leave(Leave),
    /// The sender aborts: `#`.
    Abort,
    /// The sender stops for a while and then goes on.
    Rest(Duration),
}

pub(crate) struct Party {
    /// Use-Path.
    pub(crate) session: Option<String>,
    pub(crate) shared: Arc<Shared>,
    /// The next nonce that the last 200 to an AUTH named.
    next_nonce: Option<String>,
    line: Option<Arc<Line>>,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Party {
    pub(crate) fn start(visitor: Visitor, manner: Manner) -> Result<Self, String> {
        let Visitor { stage, line, reader, uri, session, next_nonce, .. } = visitor;
        line.wait_for(None).map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared { stage, uri, ledger: Mutex::default(), changed: Condvar::new() });
        let (jobs, todo) = channel();
        let ear = Ear::new(Arc::clone(&shared), jobs.clone(), manner);
        let pen = Pen::new(Arc::clone(&shared), Arc::clone(&line), todo);
        let threads = vec![spawn("ear", move || ear.run(reader))?, spawn("pen", move || pen.run())?];
        add(&shared.stage.tally.parties_open, 1);
        Ok(Self { session, shared, next_nonce, line: Some(line), jobs: Some(jobs), threads })
    }

    /// The path that SDP would give to the other side: the relays, the nearest last, and this end.
    pub(crate) fn path(&self) -> String {
        let relays = self.session.iter().flat_map(|session| session.split(' ').rev());
        relays.chain([self.shared.uri.as_str()]).collect::<Vec<_>>().join(" ")
    }

    /// To-Path of requests to the peer with the path `peer`.
    pub(crate) fn route(&self, peer: &str) -> String {
        let relays = self.session.as_deref();
        relays.into_iter().chain([peer]).collect::<Vec<_>>().join(" ")
    }

    fn job(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A writer that has ended notes it in the ledger.
            let _ = jobs.send(job);
        }
    }

    pub(crate) fn send(&self, outgoing: Outgoing) {
        self.shared.enter(|ledger| ledger.writing += 1);
        self.job(Job::Message(Box::new(outgoing)));
    }

    /// Sends a request without a body, and waits for its answer.
    pub(crate) fn ask(&self, request: Request) -> Result<Frame, String> {
        let tid = request.tid();
        self.shared.enter(|ledger| ledger.asked.insert(tid.clone()));
        self.job(Job::Frame(request.bare()));
        self.wait("an answer", |ledger| ledger.answers.remove(&tid))
    }

    /// AUTH during a session: `anew` for a URI that replaces the present one, else to prolong that.
    pub(crate) fn refresh(&mut self, user: &str, anew: bool) -> Result<(), String> {
        let to = match &self.session {
            Some(session) if !anew => session.clone(),
            _ => self.shared.stage.auth_uri(),
        };
        let challenge = match self.next_nonce.take() {
            Some(nonce) => {
                format!("Digest realm=\"example.com\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\"")
            }
            None => {
                let frame = self.ask(Request::new("AUTH", &to, &self.shared.uri))?;
                frame.header("WWW-Authenticate").ok_or_else(|| format!("no challenge: {frame:?}"))?
            }
        };
        let stage = Arc::clone(&self.shared.stage);
        let authorization = Stage::login(user, &stage.password, &to).answer(&challenge);
        let request = Request::new("AUTH", &to, &self.shared.uri).header("Authorization", &authorization);
        let frame = self.ask(request)?;
        match frame.status() {
            Some(200) => {
                add(&stage.tally.auths, 1);
                add(&stage.tally.replaced, u64::from(anew));
                self.session = frame.header("Use-Path").or_else(|| self.session.take());
                Ok(())
            }
            _ => Err(format!("refresh refused: {frame:?}")),
        }
    }

    pub(crate) fn wait<T>(
        &self,
        what: &str,
        look: impl FnMut(&mut Ledger) -> Option<T>,
    ) -> Result<T, String> {
        self.wait_for(PATIENCE, what, look)
    }

    /// Waits until the ledger has something to see. Nothing comes any more once the connection has ended.
    pub(crate) fn wait_for<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&mut Ledger) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        let mut ledger = self.shared.ledger();
        loop {
            if let Some(fault) = &ledger.fault {
                return Err(fault.clone());
            }
            if let Some(seen) = look(&mut ledger) {
                return Ok(seen);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(end) = ledger.end {
                return Err(format!("waited for {what}, but the connection ended: {end:?}"));
            }
            if left.is_zero() {
                return Err(format!("waited {limit:?} in vain for {what}: {}", describe(&ledger)));
            }
            ledger = self.shared.changed.wait_timeout(ledger, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes in order and waits for the relay to do the same. The relay may have closed the connection of an endpoint
    /// without a relay already, because its session has ended.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let foreign = self.session.is_none();
        self.wait("everything to be written", |ledger| {
            (ledger.writing == 0 || foreign && ledger.end.is_some()).then_some(())
        })?;
        self.job(Job::Leave(Leave::InOrder));
        let closed = self.wait("the relay to close", |ledger| ledger.end);
        self.let_go(Leave::Truncate);
        let fault = self.shared.ledger().fault.take();
        match fault {
            Some(fault) => Err(fault),
            None => closed.map(|_| ()),
        }
    }

    /// Ends the connection without waiting for anything.
    pub(crate) fn let_go(&mut self, how: Leave) {
        let Some(line) = self.line.take() else {
            return;
        };
        line.leave(how);
        // A reset happens when the last owner has gone.
        drop(line);
        self.job(Job::Leave(how));
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.ledger().blame("a thread of the driver died".to_owned());
            }
        }
        self.shared.stage.tally.parties_open.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.let_go(Leave::Truncate);
    }
}

pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10);
    builder.spawn(body).map_err(|error| format!("no thread: {error}"))
}

/// The state that a scene reports when it waits in vain.
fn describe(ledger: &Ledger) -> String {
    let sent = ledger.sent.iter().take(2).map(|(id, sent)| {
        let last = sent.chunks.last();
        format!(
            "{id}: {} of {} sent, over {}, {} of {} chunks unanswered, reports {:?}, last {last:?}",
            sent.bytes(),
            sent.total,
            sent.over,
            sent.unanswered,
            sent.chunks.len(),
            sent.reports
        )
    });
    let received = ledger.received.iter().take(2).map(|(id, received)| {
        format!(
            "{id}: {} of {:?} received, last {:?}",
            received.bytes,
            received.total,
            received.pieces.last()
        )
    });
    sent.chain(received).collect::<Vec<_>>().join("; ")
}
