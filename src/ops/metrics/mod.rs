//! The relay's metrics over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for monitors.
//!
//! It has a thread of its own, not the control plane's: the metrics must show a hanging look-up. It reads what the
//! cores have published and asks them nothing.
//!
//! Invariants: every connection gets one answer and no more time than [`ANSWER_TIMEOUT`], [`CONNECTIONS_MAX`] at a
//! time; no request changes anything; the metrics name no users and no sessions. Must not know where the figures come
//! from.

mod accept;
mod exposition;
mod process;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

use crate::telemetry::{Observed, PUBLISHED_EVERY, Site, Source, gated, lines_suppressed};
use accept::Form;
pub use exposition::{Certificate, Facts};

/// Requests at a time; further connections get no answer.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a request and its answer may take together.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's head; the smallest value that hyper allows.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long accepting rests after a failure, such as a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A core that has not published for so long is stuck. A live one publishes four times a second.
const SILENT_AFTER: Duration = Duration::from_secs(5);

const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A listening address, before there is anything to show.
#[derive(Debug)]
pub struct Place(TcpListener);

impl Place {
    /// Listens. Connections wait until there is something to show.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Begins to answer, until the endpoint is dropped. `observe` returns the figures, `lines_dropped` how many lines
    /// the log has lost.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn serve(
        self,
        facts: Facts,
        observe: impl Fn() -> Observed + Send + 'static,
        lines_dropped: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Endpoint> {
        let address = self.0.local_addr()?;
        let shared = Arc::new(Shared { facts: Mutex::new(facts), draining: AtomicBool::new(false) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(self.0)?
        };
        let (stop, stopped) = oneshot::channel();
        let show = Show {
            shared: Arc::clone(&shared),
            observe: Box::new(observe),
            lines_dropped: Box::new(lines_dropped),
            started: SystemTime::now(),
            pulse: std::cell::RefCell::default(),
        };
        let body = move || LocalSet::new().block_on(&runtime, serve(listener, Rc::new(show), stopped));
        let thread = thread::Builder::new().name("metrics".to_owned()).spawn(body)?;
        Ok(Endpoint { address, shared, stop: Some(stop), thread: Some(thread) })
    }
}

/// A running endpoint.
#[derive(Debug)]
#[must_use = "dropping it ends the endpoint"]
pub struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the endpoint reads. No data core touches it.
#[derive(Debug)]
struct Shared {
    facts: Mutex<Facts>,
    draining: AtomicBool,
}

impl Endpoint {
    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The config has changed.
    pub fn update(&self, facts: Facts) {
        *self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// The relay accepts no more clients: `/readyz` says so from here on.
    pub fn draining(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that panicked has logged it.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What is shown.
struct Show {
    shared: Arc<Shared>,
    observe: Box<dyn Fn() -> Observed + Send>,
    lines_dropped: Box<dyn Fn() -> u64 + Send>,
    started: SystemTime,
    pulse: std::cell::RefCell<Pulse>,
}

async fn serve(listener: tokio::net::TcpListener, show: Rc<Show>, mut stopped: oneshot::Receiver<()>) {
    let mut answering = JoinSet::new();
    let mut look = tokio::time::interval(PUBLISHED_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The sender is dropped, never used.
            _ = &mut stopped => return,
            _ = look.tick() => show.pulse.borrow_mut().look(&(show.observe)(), Instant::now()),
            Some(_) = answering.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if answering.len() < CONNECTIONS_MAX => {
                    let show = Rc::clone(&show);
                    answering.spawn_local(async move {
                        // Too slow, or not HTTP: there is no one to answer.
                        let _ = tokio::time::timeout(ANSWER_TIMEOUT, answer(stream, show)).await;
                    });
                }
                Ok(_) => tracing::debug!("Too many ask for the metrics at once"),
                Err(error) => {
                    let reason = tracing::field::display(&error);
                    gated!(warn, Site::Metrics, Source::ANY, { reason }, "The metrics cannot be served for now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// One request, one answer.
async fn answer(stream: TcpStream, show: Rc<Show>) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| std::future::ready(Ok::<_, Infallible>(show.respond(&request)))),
        )
        .await
}

impl Show {
    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(form(request.headers())),
            "/healthz" => verdict(self.health()),
            "/readyz" => verdict(self.readiness()),
            _ => {
                response(StatusCode::NOT_FOUND, TEXT, "There are /metrics, /healthz and /readyz\n".to_owned())
            }
        }
    }

    fn metrics(&self, form: Form) -> Response<Full<Bytes>> {
        let seen = exposition::Seen {
            observed: (self.observe)(),
            facts: self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            draining: self.shared.draining.load(Ordering::Relaxed),
            lines_dropped: (self.lines_dropped)(),
            lines_suppressed: lines_suppressed(),
            started: self.started,
            process: process::read(),
        };
        let kind = match form {
            Form::Text => PROMETHEUS,
            Form::OpenMetrics => OPENMETRICS,
        };
        match exposition::text(seen, form) {
            Ok(text) => {
                let mut page = response(StatusCode::OK, kind, text);
                page.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
                page
            }
            Err(error) => {
                let reason = tracing::field::display(&error);
                gated!(error, Site::Metrics, Source::ANY, { reason }, "The metrics cannot be written");
                response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
            }
        }
    }

    /// Whether every core works.
    fn health(&self) -> Result<(), String> {
        let observed = (self.observe)();
        let mut pulse = self.pulse.borrow_mut();
        pulse.look(&observed, Instant::now());
        let mut troubles = String::new();
        for (core, counters) in observed.cores.iter().enumerate() {
            let trouble = match counters.up {
                0 => "is down",
                _ if pulse.is_silent(core) => "is stuck",
                _ => continue,
            };
            let separator = if troubles.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(troubles, "{separator}core {core} {trouble}");
        }
        if troubles.is_empty() { Ok(()) } else { Err(troubles) }
    }

    /// Whether clients should connect.
    fn readiness(&self) -> Result<(), String> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err("draining".to_owned());
        }
        if !(self.observe)().accounts_ready {
            return Err("accounts cannot be reached".to_owned());
        }
        Ok(())
    }
}

/// The form that a request asks for.
fn form(headers: &HeaderMap) -> Form {
    let accept: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    Form::wanted(&accept.join(","))
}

fn verdict(found: Result<(), String>) -> Response<Full<Bytes>> {
    match found {
        Ok(()) => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(reason) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason + "\n"),
    }
}

fn response(status: StatusCode, kind: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// When each core was last seen to publish.
#[derive(Debug, Default)]
struct Pulse {
    seen: Vec<(u64, Instant)>,
    looked: Option<Instant>,
}

impl Pulse {
    fn look(&mut self, observed: &Observed, now: Instant) {
        self.looked = Some(now);
        let known = self.seen.len();
        let new = observed.cores.get(known..).unwrap_or_default();
        self.seen.extend(new.iter().map(|core| (core.heartbeats, now)));
        for (seen, core) in self.seen.iter_mut().zip(&observed.cores) {
            if seen.0 != core.heartbeats {
                *seen = (core.heartbeats, now);
            }
        }
    }

    fn is_silent(&self, core: usize) -> bool {
        let (Some((_, since)), Some(looked)) = (self.seen.get(core), self.looked) else { return false };
        looked.saturating_duration_since(*since) > SILENT_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Counters;

    fn observed(beats: [u64; 2]) -> Observed {
        let core = |heartbeats| {
            let counters = Counters::default();
            counters.heartbeats.add(heartbeats);
            counters.snapshot()
        };
        Observed { cores: beats.map(core).to_vec(), ..Observed::default() }
    }

    #[test]
    fn a_core_whose_heartbeats_stand_still_is_silent_and_not_for_ever() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        pulse.look(&observed([1, 1]), start);
        pulse.look(&observed([2, 1]), start + SILENT_AFTER);
        assert_eq!([0, 1].map(|core| pulse.is_silent(core)), [false, false]);
        let late = start + SILENT_AFTER + Duration::from_millis(1);
        pulse.look(&observed([2, 1]), late);
        assert_eq!([0, 1].map(|core| pulse.is_silent(core)), [false, true]);
        pulse.look(&observed([2, 2]), late);
        assert_eq!([0, 1].map(|core| pulse.is_silent(core)), [false, false]);
    }
}
