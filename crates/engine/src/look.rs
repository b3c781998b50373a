//! Looks at the sockets of an executor, and waits for them, without a turn of the engine for each.
//!
//! A turn of the engine that ends in sleep costs about nine system calls, and most of the CPU of a message that comes alone.
//! So the sockets of an executor stand in one epoll instance. The engine waits for that as for one socket; once it has
//! woken, a task of its own queue looks at it, lets all other tasks run out, and waits for the next event itself: one call
//! where the engine would need a turn. Only when nothing has come for a moment ([`WAIT`]) does the engine sleep, and for
//! as long as something comes it has a turn every [`STRETCH`] for its timers and connects.
//!
//! Invariants: a socket is registered once, edge-triggered, from its making to its end, and belongs to no more than one
//! executor at a time; readiness is remembered until a call has found that there is none left; the executor does not wait here
//! while a task is due, nor for longer than a [`WAIT`]; what other threads wake ([`outside`](crate::outside)) ends the wait.
//! Must not know: what is read and written.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::AsyncRead;
use glommio::net::TcpStream;
use glommio::timer::Timer;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::outside::Mailbox;
use crate::turn;
use crate::watch::Answers;

/// How long the executor waits here for the next event before the engine sleeps. The answer to what was just sent comes
/// within this, or is rare enough for a turn of its own.
const WAIT: Duration = Duration::from_millis(1);
const WAIT_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How long the engine goes without a turn: what only the engine looks at, such as its timers, waits for so long, and
/// for a [`WAIT`].
const STRETCH: Duration = Duration::from_millis(4);
/// Events of one look. What is beyond comes with the next.
const EVENTS_MAX: usize = 256;
/// The event that stands for other threads.
const MAIL: u64 = u64::MAX;

thread_local! {
    static LOOKS: RefCell<Option<Rc<Looks>>> = const { RefCell::new(None) };
}

/// The sockets of the executor of this thread.
pub(crate) struct Looks {
    epoll: OwnedFd,
    spots: RefCell<Spots>,
    events: RefCell<Vec<epoll::Event>>,
    /// The task that looks waits in the engine.
    is_asleep: Cell<bool>,
    wait: RefCell<Option<Wait>>,
    mailbox: Arc<Mailbox>,
}

/// What the engine sleeps for.
enum Wait {
    Engine(TcpStream),
    Timer(Timer),
}

/// Ends it also where the future of the executor panics.
pub(crate) struct Begun;

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(looks) = LOOKS.take() {
            looks.mailbox.close();
        }
    }
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Spots {
    all: Vec<Option<Rc<Spot>>>,
    free: Vec<usize>,
}

/// What is known of a socket, and who waits for it.
#[derive(Debug, Default)]
struct Spot {
    is_readable: Cell<bool>,
    /// The peer sends no more, or the socket has failed: a read finds that, and there may be no further event.
    has_ended: Cell<bool>,
    is_watched_for_room: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Looks {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mailbox = Arc::new(Mailbox::new()?);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, mailbox.bell(), epoll::EventData::new_u64(MAIL), flags)?;
        let events = RefCell::new(Vec::with_capacity(EVENTS_MAX));
        Ok(Self {
            epoll,
            spots: RefCell::default(),
            events,
            is_asleep: Cell::new(false),
            wait: RefCell::default(),
            mailbox,
        })
    }

    /// These are the sockets of the executor of this thread, until what this returns is dropped. From then on no socket is
    /// made on this thread, and no task waits for another thread through the mailbox.
    pub(crate) fn begin(self: &Rc<Self>) -> Begun {
        LOOKS.set(Some(Rc::clone(self)));
        // From the first moment on: an executor has as many descriptors awake as asleep.
        self.wait.replace(Some(self.new_wait()));
        Begun
    }

    /// Those of the executor of this thread, if it runs.
    fn here() -> Option<Rc<Self>> {
        LOOKS.with_borrow(|looks| looks.as_ref().map(Rc::clone))
    }

    /// Where other threads leave their wakes for the executor of this thread, if it runs.
    pub(crate) fn mailbox() -> Option<Arc<Mailbox>> {
        LOOKS.with_borrow(|looks| looks.as_ref().map(|looks| Arc::clone(&looks.mailbox)))
    }

    /// The task that looks and waits, until these are the sockets of no executor any more. It keeps none of what is here
    /// while it waits: an executor that dies of a panic does not drop all its tasks.
    pub(crate) async fn go_on(this: Weak<Self>, answers: Answers) {
        loop {
            let began = Instant::now();
            let Some(looks) = this.upgrade() else { return };
            looks.fall_asleep();
            drop(looks);
            let slept = poll_fn(|cx| match this.upgrade() {
                Some(looks) => looks.poll_engine(cx).map(Some),
                None => Poll::Ready(None),
            });
            if slept.await.is_none() {
                return;
            }
            let had_turn = Instant::now();
            let mut is_dense = had_turn - began < WAIT;
            this.upgrade().inspect(|looks| {
                looks.is_asleep.set(false);
                looks.look(&NO_TIME);
            });
            while is_dense {
                // All that is due runs: this queue has the least share, and the others run until they have no more. Twice:
                // one that the engine has just woken comes a little after the one that was there.
                glommio::executor().yield_task_queue_now().await;
                glommio::executor().yield_task_queue_now().await;
                answers.answer();
                if turn::is_look_wanted() || had_turn.elapsed() >= STRETCH {
                    break;
                }
                let Some(looks) = this.upgrade() else { return };
                let is_empty = looks.mailbox.may_sleep();
                is_dense = looks.look(if is_empty { &WAIT_TIME } else { &NO_TIME });
            }
        }
    }

    /// Wakes those whose sockets have become ready, or whom another thread has woken, after waiting for the first of them.
    /// Returns whether there was any.
    fn look(&self, wait: &Timespec) -> bool {
        let mut events = self.events.borrow_mut();
        let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(wait));
        debug_assert!(matches!(waited, Ok(_) | Err(Errno::INTR)), "{waited:?}");
        let mut has_woken = self.mailbox.collect();
        for event in events.drain(..) {
            let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let spot = self.spots.borrow().all.get(index).cloned().flatten();
            if let Some(spot) = spot {
                spot.happened(event.flags);
                has_woken = true;
            }
        }
        has_woken
    }

    /// The engine is about to sleep until there is something to look at.
    fn fall_asleep(&self) {
        self.is_asleep.set(true);
        // Not before, for the same reason.
        drop(self.wait.take());
        if !self.mailbox.may_sleep() {
            // The engine has its turn all the same.
            self.mailbox.ring();
        }
    }

    fn new_wait(&self) -> Wait {
        // The engine takes a descriptor for itself, and waits for nothing but sockets, which it does not tell from others.
        match self.epoll.try_clone() {
            Ok(epoll) => Wait::Engine(TcpStream::from(socket2::Socket::from(epoll))),
            // No descriptor is left. What other threads leave is found a little later then.
            Err(_) => Wait::Timer(Timer::new(WAIT)),
        }
    }

    /// Lets the engine sleep until there is something to look at.
    fn poll_engine(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wait = self.wait.borrow_mut();
        if wait.is_none() {
            *wait = Some(self.new_wait());
        }
        match &mut *wait {
            // One that is made anew is polled for readiness first. Then it is read from, which fails: it is no socket.
            Some(Wait::Engine(stream)) => Pin::new(stream).poll_read(cx, &mut [0]).map(drop),
            Some(Wait::Timer(timer)) => Pin::new(timer).poll(cx).map(drop),
            None => Poll::Ready(()),
        }
    }
}

impl Spot {
    fn happened(&self, flags: epoll::EventFlags) {
        use epoll::EventFlags as Flags;
        let has_ended = flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
        if has_ended {
            self.has_ended.set(true);
        }
        if has_ended || flags.contains(Flags::IN) {
            self.is_readable.set(true);
            wake(&self.reader);
        }
        if has_ended || flags.contains(Flags::OUT) {
            wake(&self.writer);
        }
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

fn wait(waiting: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waiting = waiting.borrow_mut();
    if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waiting = Some(cx.waker().clone());
    }
}

/// Looks at the sockets of the executor of this thread, without waiting.
pub(crate) fn look() {
    let Some(looks) = Looks::here() else { return };
    looks.look(&NO_TIME);
    // The ring for what was found may not reach the task that waits in the engine any more: it must be rung for again.
    while looks.is_asleep.get() && !looks.mailbox.may_sleep() {
        looks.mailbox.collect();
    }
}

/// A descriptor that the executor of this thread looks at until this is dropped.
#[derive(Debug)]
pub(crate) struct Descriptor {
    looks: Rc<Looks>,
    index: usize,
    spot: Rc<Spot>,
    descriptor: OwnedFd,
    sharing: Cell<Sharing>,
}

/// Whether other descriptors of the same socket exist. The kernel forgets a socket by itself only when its last
/// descriptor is closed, in whatever process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// This one is the only one.
    Sole,
    /// There may be others.
    Shared,
}

impl Descriptor {
    pub(crate) fn new(descriptor: OwnedFd, sharing: Sharing) -> io::Result<Self> {
        let looks = Looks::here().ok_or_else(|| io::Error::other("there is no executor on this thread"))?;
        // There may be something already: tried at once, a connection that is gone does not wait for a look.
        let spot = Rc::new(Spot { is_readable: Cell::new(true), ..Spot::default() });
        let index = looks.spots.borrow_mut().put(Rc::clone(&spot));
        let new = Self { looks, index, spot, descriptor, sharing: Cell::new(sharing) };
        epoll::add(&new.looks.epoll, &new.descriptor, new.data(), FLAGS)?;
        Ok(new)
    }

    /// A second descriptor of the socket. Only one may be in use.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.sharing.set(Sharing::Shared);
        self.descriptor.try_clone()
    }

    /// Tries `receive` when there may be something, and waits while there is not. `is_all` says of what came whether it
    /// was all there is; after more than that there is another try before the next wait.
    pub(crate) fn poll_read<T>(
        &self,
        cx: &Context<'_>,
        mut receive: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
        is_all: impl FnOnce(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        while self.spot.is_readable.get() {
            match receive(self.descriptor.as_fd()) {
                Ok(received) => {
                    if is_all(&received) && !self.spot.has_ended.get() {
                        self.spot.is_readable.set(false);
                    }
                    return Poll::Ready(Ok(received));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.spot.is_readable.set(false),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        wait(&self.spot.reader, cx);
        Poll::Pending
    }

    /// Tries `send`, and waits while there is no room.
    pub(crate) fn poll_write<T>(
        &self,
        cx: &Context<'_>,
        mut send: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        loop {
            match send(self.descriptor.as_fd()) {
                Ok(sent) => return Poll::Ready(Ok(sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        if !self.spot.is_watched_for_room.replace(true) {
            // Looks at once whether there is room by now. Most sockets never need it.
            let flags = FLAGS | epoll::EventFlags::OUT;
            epoll::modify(&self.looks.epoll, &self.descriptor, self.data(), flags)?;
        }
        wait(&self.spot.writer, cx);
        Poll::Pending
    }

    fn data(&self) -> epoll::EventData {
        epoll::EventData::new_u64(self.index as u64)
    }
}

const FLAGS: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.sharing.get() == Sharing::Shared {
            // It can only fail where it was never added.
            let _ = epoll::delete(&self.looks.epoll, &self.descriptor);
        }
        self.looks.spots.borrow_mut().take(self.index);
    }
}

impl Spots {
    fn put(&mut self, spot: Rc<Spot>) -> usize {
        if let Some(index) = self.free.pop() {
            if let Some(slot) = self.all.get_mut(index) {
                *slot = Some(spot);
            }
            return index;
        }
        self.all.push(Some(spot));
        self.all.len() - 1
    }

    fn take(&mut self, index: usize) {
        if self.all.get_mut(index).is_some_and(|slot| mem::take(slot).is_some()) {
            self.free.push(index);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use futures_lite::future;
    use rustix::net::{RecvFlags, recv};

    use super::*;
    use crate::run_on_executor;

    /// Longer than any of this takes, on a machine that is busy with other things.
    const LONG: Duration = Duration::from_secs(120);

    fn pair() -> (Descriptor, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Descriptor::new(ours.into(), Sharing::Sole).unwrap(), theirs)
    }

    async fn read(descriptor: &Descriptor) -> io::Result<Vec<u8>> {
        poll_fn(|cx| {
            let mut room = [0; 64];
            let receive = |socket: BorrowedFd<'_>| {
                let read = recv(socket, &mut room, RecvFlags::DONTWAIT).map(|(_, read)| read)?;
                Ok(room.get(..read).unwrap_or_default().to_vec())
            };
            descriptor.poll_read(cx, receive, |read| read.len() < 64)
        })
        .await
    }

    #[test]
    fn the_end_that_has_come_with_the_last_bytes_is_read() {
        let read = run_on_executor(None, async {
            let (ours, mut theirs) = pair();
            theirs.write_all(b"last").unwrap();
            drop(theirs);
            (read(&ours).await.unwrap(), read(&ours).await.unwrap())
        });
        assert_eq!(read.unwrap(), (b"last".to_vec(), Vec::new()));
    }

    #[test]
    fn bytes_that_come_while_no_task_reads_are_not_forgotten() {
        let read = run_on_executor(None, async {
            let (ours, mut theirs) = pair();
            assert!(future::poll_once(read(&ours)).await.is_none());
            theirs.write_all(b"x").unwrap();
            // Seen by a look without a reader.
            look();
            read(&ours).await.unwrap()
        });
        assert_eq!(read.unwrap(), b"x");
    }

    #[test]
    fn a_descriptor_that_another_goes_on_with_wakes_no_successor_in_its_place() {
        let ran = run_on_executor(None, async {
            let (ours, mut theirs) = pair();
            let duplicate = ours.duplicate().unwrap();
            let place = ours.index;
            drop(ours);
            let (successor, _peer) = pair();
            assert_eq!(successor.index, place);
            successor.spot.is_readable.set(false);
            let ours = Descriptor::new(duplicate, Sharing::Shared).unwrap();
            theirs.write_all(b"x").unwrap();
            look();
            assert!(!successor.spot.is_readable.get());
            assert_eq!(read(&ours).await.unwrap(), b"x");
        });
        ran.unwrap();
    }

    #[test]
    fn what_has_other_descriptors_is_looked_at_no_more_once_it_is_dropped() {
        let ran = run_on_executor(None, async {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let other = ours.try_clone().unwrap();
            let looks = Looks::here().unwrap();
            let looked_at = || {
                let path = format!("/proc/self/fdinfo/{}", looks.epoll.as_raw_fd());
                std::fs::read_to_string(path).unwrap().matches("tfd:").count()
            };
            let before = looked_at();
            let descriptor = Descriptor::new(ours.into(), Sharing::Shared).unwrap();
            assert_eq!(looked_at(), before + 1);
            drop(descriptor);
            assert_eq!(looked_at(), before);
            drop(other);
        });
        ran.unwrap();
    }

    #[test]
    fn the_engine_has_its_turns_while_sockets_keep_the_executor_busy() {
        let fired = run_on_executor(None, async {
            let fired = Rc::new(Cell::new(false));
            let fires = Rc::clone(&fired);
            let timer = glommio::spawn_local(async move {
                glommio::timer::sleep(Duration::from_millis(5)).await;
                fires.set(true);
            });
            let (ours, mut theirs) = pair();
            let began = Instant::now();
            while !fired.get() && began.elapsed() < LONG {
                // Comes while the executor waits here, not before.
                let writes = glommio::spawn_local(async move {
                    glommio::executor().yield_task_queue_now().await;
                    theirs.write_all(b"x").unwrap();
                    theirs
                });
                read(&ours).await.unwrap();
                theirs = writes.await;
            }
            drop(timer);
            fired.get()
        });
        assert!(fired.unwrap());
    }

    // Who counts descriptors before and after finds the same number.
    #[test]
    fn an_executor_has_the_descriptor_it_sleeps_with_from_its_first_moment_on() {
        let ran = run_on_executor(None, async {
            let has_it = || Looks::here().unwrap().wait.borrow().is_some();
            assert!(has_it());
            glommio::timer::sleep(Duration::from_millis(5)).await;
            assert!(has_it());
        });
        ran.unwrap();
    }

    #[test]
    fn a_place_is_used_again() {
        let ran = run_on_executor(None, async {
            let places: Vec<_> = (0..3).map(|_| pair().0.index).collect();
            assert_eq!(places, [places[0]; 3]);
        });
        ran.unwrap();
    }

    #[test]
    fn without_an_executor_there_is_no_descriptor() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(Descriptor::new(ours.into(), Sharing::Sole).is_err());
    }
}
