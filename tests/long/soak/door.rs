//! A listener that accepts connections and does nothing useful with them.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::driver::party::spawn;

pub(crate) struct Door {
    over: Arc<AtomicBool>,
    address: std::net::SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Holds each connection for so long and closes it without sending anything.
    pub(crate) fn open(listener: TcpListener, rest: Duration) -> Result<Self, String> {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = spawn("door", move || {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                if !rest.is_zero() {
                    held.push((stream, Instant::now() + rest));
                    held.retain(|(_, until)| Instant::now() < *until);
                }
            }
        })?;
        Ok(Self { over, address, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            let _ = thread.join();
        }
    }
}
