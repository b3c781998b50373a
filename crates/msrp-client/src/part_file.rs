//! A file while it arrives: under a temporary name, written and hashed while the network goes on.
//!
//! Invariants: the temporary file is a [`Unfinished`]: created anew, in the directory of the finished one, and removed
//! when the [`PartFile`] is dropped without [`PartFile::publish`]; a published file never replaces another, and its
//! bytes are the hashed ones; bytes reach the hash in the order of the file, or the file is read again at the end.
//! Blocking calls run on the executor's blocking thread, one at a time, while the next buffer fills: at most two
//! buffers of 256 KiB are held. Must not know MSRP.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use glommio::Task;
use sha2::{Digest as _, Sha256};

use super::ClientError;
use super::disposition::{Sha256Digest, numbered_name};
use untrusted::files::{Directory, Unfinished};

const BUFFER_BYTES: usize = 256 << 10;
/// Less the umask, as for any file that a user makes.
const MODE: u32 = 0o666;
/// How many names are tried before giving up.
const NAMES_MAX: u32 = 10_000;

/// The existing ones, for [`remove_all`].
static EXISTING: Mutex<Vec<Weak<Unfinished>>> = Mutex::new(Vec::new());

fn existing() -> MutexGuard<'static, Vec<Weak<Unfinished>>> {
    EXISTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all temporary files of this process, and lets it make no more: the process is about to end, from another
/// thread than the one that receives.
pub fn remove_all() {
    let existing = existing();
    existing.iter().filter_map(Weak::upgrade).for_each(|unfinished| unfinished.remove());
    // A task that wants another file waits here until the process ends.
    std::mem::forget(existing);
}

/// A file that is being received.
#[derive(Debug)]
pub(super) struct PartFile {
    directory: PathBuf,
    unfinished: Arc<Unfinished>,
    /// Contiguous bytes not yet given to the disk, and where they belong.
    buffer: Vec<u8>,
    offset: u64,
    disk: Option<Disk>,
    job: Option<Task<Written>>,
}

/// What the blocking thread returns. The buffer is used again.
type Written = (Disk, Vec<u8>, io::Result<()>);

/// What travels to the blocking thread and back.
#[derive(Debug)]
struct Disk {
    file: File,
    hasher: Sha256,
    /// The hasher has seen exactly this many bytes from the front, unless something was written out of order.
    hashed: u64,
    in_order: bool,
}

impl Disk {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        if offset == self.hashed {
            self.hasher.update(bytes);
            self.hashed += bytes.len() as u64;
        } else {
            self.in_order = false;
        }
        Ok(())
    }

    fn digest(self, size: u64) -> io::Result<Sha256Digest> {
        self.file.set_len(size)?;
        if self.in_order && self.hashed == size {
            return Ok(self.hasher.finalize().into());
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut file = &self.file;
        io::Seek::rewind(&mut file)?;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize().into()),
                bytes => hasher.update(buffer.get(..bytes).unwrap_or_default()),
            }
        }
    }
}

impl PartFile {
    /// Creates the temporary file, `.msrp-….part`, in this directory.
    pub(super) fn create(directory: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::File { path: directory.to_owned(), source };
        let mut existing = existing();
        let unfinished = Directory::open(directory).and_then(|opened| opened.unfinished("msrp", MODE));
        let unfinished = Arc::new(unfinished.map_err(failed)?);
        existing.retain(|other| other.strong_count() > 0);
        existing.push(Arc::downgrade(&unfinished));
        drop(existing);
        let file = unfinished.file().try_clone().map_err(failed)?;
        let disk = Disk { file, hasher: Sha256::new(), hashed: 0, in_order: true };
        Ok(Self {
            directory: directory.to_owned(),
            unfinished,
            buffer: Vec::new(),
            offset: 0,
            disk: Some(disk),
            job: None,
        })
    }

    /// Takes bytes for this offset. They may reach the disk only with a later call.
    pub(super) async fn write(&mut self, offset: u64, mut bytes: &[u8]) -> Result<(), ClientError> {
        if offset != self.offset + self.buffer.len() as u64 {
            self.submit().await?;
            self.offset = offset;
        }
        while !bytes.is_empty() {
            let room = BUFFER_BYTES - self.buffer.len();
            let (fitting, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(fitting);
            bytes = rest;
            if self.buffer.len() == BUFFER_BYTES {
                self.submit().await?;
            }
        }
        Ok(())
    }

    /// Waits for everything to be written, cuts the file to its size and returns its hash.
    pub(super) async fn finish(&mut self, size: u64) -> Result<Sha256Digest, ClientError> {
        self.submit().await?;
        self.settle().await?;
        let Some(disk) = self.disk.take() else {
            return Err(self.failure(io::ErrorKind::BrokenPipe.into()));
        };
        let digest = glommio::executor().spawn_blocking(move || disk.digest(size)).await;
        digest.map_err(|source| self.failure(source))
    }

    /// Gives the file its name, or the first free `name (n)` if that is taken. Never replaces anything.
    pub(super) async fn publish(self, name: &str) -> Result<PathBuf, ClientError> {
        let (unfinished, name) = (Arc::clone(&self.unfinished), name.to_owned());
        let named = glommio::executor().spawn_blocking(move || take_free_name(&unfinished, &name)).await;
        let name = named.map_err(|source| self.failure(source))?;
        Ok(self.directory.join(name))
    }

    /// Hands the buffer to the blocking thread, once that has finished the one before.
    async fn submit(&mut self) -> Result<(), ClientError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let spare = self.settle().await?;
        let Some(mut disk) = self.disk.take() else {
            return Err(self.failure(io::ErrorKind::BrokenPipe.into()));
        };
        let bytes = std::mem::replace(&mut self.buffer, spare);
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        self.job = Some(glommio::spawn_local(glommio::executor().spawn_blocking(move || {
            let result = disk.write(&bytes, offset);
            (disk, bytes, result)
        })));
        Ok(())
    }

    /// Waits for the blocking thread. Returns its buffer, emptied, for the next bytes.
    async fn settle(&mut self) -> Result<Vec<u8>, ClientError> {
        let Some(job) = self.job.take() else {
            return Ok(Vec::with_capacity(BUFFER_BYTES));
        };
        let (disk, mut spare, result) = job.await;
        result.map_err(|source| self.failure(source))?;
        self.disk = Some(disk);
        spare.clear();
        Ok(spare)
    }

    fn failure(&self, source: io::Error) -> ClientError {
        ClientError::File { path: self.directory.join(self.unfinished.name()), source }
    }
}

/// Gives the file the first free of the names; never replaces anything.
fn take_free_name(unfinished: &Unfinished, name: &str) -> io::Result<String> {
    for attempt in 0..NAMES_MAX {
        let name = numbered_name(name, attempt);
        match unfinished.publish(name.as_ref()) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("every name like {name:?} is taken")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use std::fs;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        engine::run_on_executor(None, future).unwrap()
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_written_backwards_has_the_same_hash() {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected: Sha256Digest = Sha256::digest(&content).into();
        for backwards in [false, true] {
            let (digest, path) = run(async {
                let mut part = PartFile::create(directory.path()).unwrap();
                let mut pieces: Vec<_> = content.chunks(300_007).enumerate().collect();
                if backwards {
                    pieces.reverse();
                }
                for (index, piece) in pieces {
                    part.write(index as u64 * 300_007, piece).await.unwrap();
                }
                let digest = part.finish(content.len() as u64).await.unwrap();
                (digest, part.publish("same.bin").await.unwrap())
            });
            assert_eq!(digest, expected);
            assert_eq!(fs::read(path).unwrap(), content);
        }
        assert_eq!(names_in(directory.path()), ["same (1).bin", "same.bin"]);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        run(async {
            let mut part = PartFile::create(directory.path()).unwrap();
            part.write(0, &[7; 600_000]).await.unwrap();
        });
        assert_eq!(names_in(directory.path()), [""; 0]);
    }

    #[test]
    fn what_is_there_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.txt"), "mine").unwrap();
        std::os::unix::fs::symlink("/nonexistent/elsewhere", directory.path().join("a (1).txt")).unwrap();
        let path = run(async {
            let mut part = PartFile::create(directory.path()).unwrap();
            part.write(0, b"theirs").await.unwrap();
            part.finish(6).await.unwrap();
            part.publish("a.txt").await.unwrap()
        });
        assert_eq!(path, directory.path().join("a (2).txt"));
        assert_eq!(fs::read(directory.path().join("a.txt")).unwrap(), b"mine");
        assert_eq!(fs::read(path).unwrap(), b"theirs");
    }
}
