//! Creates, replaces and appends to files in directories where others may write, without following what they plant.
//!
//! Owns the only ways in which the programs make files. Invariants:
//! - a new file is created exclusively (`O_EXCL`), under a random name, and gets its final name only when it is whole;
//! - a directory is opened once, and every operation in it is relative to that descriptor;
//! - nothing is written through a symbolic link, hard link, FIFO, device or directory in the place of a file: it is
//!   refused, or, where a file is replaced, replaced itself;
//! - root does nothing in another user's directory: it becomes that user first ([`foreign_owner`], [`become_user`]).
//!
//! Must not know the files' content.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::process::{Gid, Uid, geteuid};

/// Only its owner may read and write it: for secrets.
pub const SECRET: u32 = 0o600;
/// Everyone may read it, and its owner may write it.
pub const PUBLIC: u32 = 0o644;

/// Bytes of randomness in a temporary name.
const NAME_RANDOM_BYTES: usize = 12;
/// The kernel follows no more links than this on the way to a file either.
const LINKS_MAX: usize = 40;

/// A directory that was opened once: a later change of its path does not matter.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
}

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    /// If the directory is missing or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self { descriptor: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Creates a file that is readable and writable here, and has `mode` (less the umask).
    ///
    /// # Errors
    /// `AlreadyExists` if anything has this name, a dangling link included.
    pub fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.descriptor, name, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// Creates a file under a random name that begins with `.` and `prefix`.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn unfinished(self, prefix: &str, mode: u32) -> io::Result<Unfinished> {
        let name = OsString::from(format!(".{prefix}-{}.part", random_name()?));
        let file = self.create_new(&name, mode)?;
        Ok(Unfinished { directory: self, name, file })
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }
}

/// A file that is not whole yet. Dropping this removes the file, unless it has its final name.
#[derive(Debug)]
pub struct Unfinished {
    directory: Directory,
    name: OsString,
    file: File,
}

impl Unfinished {
    /// A file that is to become the one at `path`, in the same directory.
    ///
    /// # Errors
    /// If the path names no file, or the directory cannot be written.
    pub fn beside(path: &Path, mode: u32) -> io::Result<Self> {
        let (directory, _) = parts(path)?;
        Directory::open(directory)?.unfinished("new", mode)
    }

    /// The file itself.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Its temporary name in its directory.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Gives the file this name in its directory.
    ///
    /// # Errors
    /// `AlreadyExists` if anything has the name: nothing is ever replaced. The caller can then try another name.
    pub fn publish(&self, name: &OsStr) -> io::Result<()> {
        let here = &self.directory.descriptor;
        // By its descriptor: the name goes to the written file, whatever has its temporary name by then.
        let itself = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let linked = rustix::fs::linkat(CWD, &*itself, here, name, AtFlags::SYMLINK_FOLLOW);
        match linked.map_err(io::Error::from) {
            // Dropping this removes the second name.
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // No hard links on this file system, or no /proc here.
            Err(_) => self.rename_to_free(name),
        }
    }

    fn rename_to_free(&self, name: &OsStr) -> io::Result<()> {
        self.check_name()?;
        let here = &self.directory.descriptor;
        match rustix::fs::renameat_with(here, &self.name, here, name, RenameFlags::NOREPLACE) {
            // If the file system cannot do that either, an empty file of ours reserves the name, and is replaced.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                self.directory.create_new(name, SECRET)?;
                Ok(rustix::fs::renameat(here, &self.name, here, name)?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Gives the file this name in its directory, in place of whatever has it. A link is replaced, not its target.
    ///
    /// # Errors
    /// If a directory has the name.
    pub fn replace(self, name: &OsStr) -> io::Result<()> {
        self.check_name()?;
        let here = &self.directory.descriptor;
        Ok(rustix::fs::renameat(here, &self.name, here, name)?)
    }

    /// Checks that the temporary name is still this file's. Only a user who may delete others' files in the directory
    /// could change that.
    fn check_name(&self) -> io::Result<()> {
        let named = rustix::fs::statat(&self.directory.descriptor, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let ours = rustix::fs::fstat(&self.file)?;
        match (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) {
            true => Ok(()),
            false => Err(refused("another file has taken the temporary name")),
        }
    }
}

impl Unfinished {
    /// Removes its temporary name, for a process that is about to end without dropping it.
    pub fn remove(&self) {
        // It has been renamed, or is of no use.
        let _ = self.directory.remove(&self.name);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Puts a file with this content at `path`, complete or not at all, in place of whatever was there.
///
/// # Errors
/// If a directory is there, or the directory it is in cannot be written.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let unfinished = Unfinished::beside(path, mode)?;
    unfinished.file().write_all(content)?;
    unfinished.replace(parts(path)?.1)
}

/// Writes a file that is new, complete or not at all.
///
/// # Errors
/// `AlreadyExists` if anything is there, a dangling link included.
pub fn write_new(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let unfinished = Unfinished::beside(path, mode)?;
    unfinished.file().write_all(content)?;
    unfinished.publish(parts(path)?.1)
}

/// Opens a file to append to; creates it with `mode` if it is missing.
///
/// # Errors
/// If anything is there but a regular file with one name.
pub fn append(path: &Path, mode: u32) -> io::Result<File> {
    open_to_append(path, OFlags::CREATE, mode)
}

/// Whether [`append`] would succeed on what is there. Creates nothing.
///
/// # Errors
/// `NotFound` if nothing is there; else as [`append`].
pub fn can_append(path: &Path) -> io::Result<()> {
    open_to_append(path, OFlags::empty(), 0).map(|_| ())
}

fn open_to_append(path: &Path, how: OFlags, mode: u32) -> io::Result<File> {
    let (directory, name) = parts(path)?;
    let directory = Directory::open(directory)?;
    // Without NONBLOCK, opening a FIFO would wait.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC
        | OFlags::NOCTTY;
    let opened = rustix::fs::openat(&directory.descriptor, name, flags | how, Mode::from_raw_mode(mode));
    let opened = opened.map_err(|error| match error {
        rustix::io::Errno::LOOP => refused("is a symbolic link: name the file itself"),
        rustix::io::Errno::NXIO => refused("is no regular file: name another"),
        other => other.into(),
    })?;
    let found = rustix::fs::fstat(&opened)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(refused("is no regular file: name another"));
    }
    if found.st_nlink > 1 {
        return Err(refused("has a second name (a hard link): remove one of them"));
    }
    Ok(opened.into())
}

/// Whether files can be created in this directory, as the kernel says.
///
/// # Errors
/// The reason why not.
pub fn can_make_files_in(directory: &Path) -> io::Result<()> {
    use rustix::fs::Access;
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    // For the effective user, as in every later call.
    let access = Access::WRITE_OK | Access::EXEC_OK;
    Ok(rustix::fs::accessat(CWD, directory, access, AtFlags::EACCESS)?)
}

/// Whether the file can be read and written, as the kernel says.
///
/// # Errors
/// The reason why not; `NotFound` if nothing is there.
pub fn can_read_and_write(path: &Path) -> io::Result<()> {
    use rustix::fs::Access;
    if !fs::metadata(path)?.is_file() {
        return Err(refused("is no regular file: name another"));
    }
    Ok(rustix::fs::accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS)?)
}

/// Sets the mode of this user's socket at `path`, without following a link.
///
/// # Errors
/// If something else is there.
pub fn set_socket_mode(path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, flags, Mode::empty())?;
    let what = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(what.st_mode) != FileType::Socket || what.st_uid != geteuid().as_raw() {
        return Err(refused("was replaced by something else"));
    }
    // The mode of a path's descriptor cannot be changed directly; its entry in /proc leads to the same file.
    let itself = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    Ok(rustix::fs::chmod(&*itself, Mode::from_raw_mode(mode))?)
}

fn refused(why: &'static str) -> io::Error {
    io::Error::other(why)
}

/// The directory and the name of a file.
fn parts(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    Ok((path.parent().unwrap_or_else(|| Path::new("")), name))
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; NAME_RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

// -- other users -----------------------------------------------------------------------------------

/// A user and the groups to act in, the primary group first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The groups' numbers; at least one.
    pub groups: Vec<u32>,
}

/// For root: the user who could change where `path` leads, or what stands beside it; `None` if that is root alone, or
/// this is not root.
///
/// Root must not make or open a file in such a user's directory: [`become_user`] comes first.
///
/// # Errors
/// If the path to the file cannot be read, or several users may write to a directory on it.
pub fn foreign_owner(path: &Path) -> io::Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let path = match way(&std::path::absolute(path)?)? {
        Way::Foreign(user) => return Ok(Some(user)),
        Way::Roots(path) => path,
    };
    let (directory, _) = parts(&path)?;
    if !others_may_write(&fs::metadata(directory)?) {
        return Ok(None);
    }
    // Root's directory, in which others may plant files: the file's owner is meant.
    match fs::symlink_metadata(&path) {
        Ok(file) if file.uid() != 0 && file.is_file() => Ok(Some(owner(&file))),
        _ => Err(refused(
            "users other than root may write to its directory: chown the directory to the relay's user",
        )),
    }
}

/// Where a path leads.
enum Way {
    /// Through this user's directory or link.
    Foreign(User),
    /// Through root's directories alone, to this file, which may be missing.
    Roots(PathBuf),
}

/// Follows an absolute path, its links included, up to the first directory or link that is not root's.
fn way(path: &Path) -> io::Result<Way> {
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut ahead: Vec<OsString> = reversed(path);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = match fs::symlink_metadata(&next) {
            Ok(found) if ahead.is_empty() && !found.is_symlink() => return Ok(Way::Roots(next)),
            Err(error) if ahead.is_empty() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Way::Roots(next));
            }
            found => found?,
        };
        if found.uid() != 0 {
            return Ok(Way::Foreign(owner(&found)));
        }
        if !found.is_symlink() {
            // In a sticky directory others can plant files, but cannot rename root's. The last directory is judged
            // elsewhere.
            if ahead.len() > 1 && others_may_write(&found) && found.mode() & 0o1000 == 0 {
                return Err(refused("users other than root may write to a directory on the way to it"));
            }
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        ahead.extend(reversed(&target));
    }
    Ok(Way::Roots(at))
}

/// The names in a path, the last one first.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

fn owner(found: &fs::Metadata) -> User {
    User { uid: found.uid(), groups: vec![found.gid()] }
}

fn others_may_write(found: &fs::Metadata) -> bool {
    let of_another_group = found.gid() != 0 && found.mode() & 0o020 != 0;
    of_another_group || found.mode() & 0o002 != 0
}

/// Gives up root's rights for those of `user`, for good.
///
/// # Errors
/// If this process is not root, or has other threads: they would keep root's rights.
pub fn become_user(user: &User) -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("several threads run: none can become another user"));
    }
    let id = |raw: u32| match raw {
        // To the kernel it means "no change".
        u32::MAX => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        raw => Ok(raw),
    };
    let groups: Vec<_> =
        user.groups.iter().map(|group| id(*group).map(Gid::from_raw)).collect::<io::Result<_>>()?;
    let group = *groups.first().ok_or(io::ErrorKind::InvalidInput)?;
    let uid = Uid::from_raw(id(user.uid)?);
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// A directory with a file that nothing may touch.
    struct Place(tempfile::TempDir);

    /// What an attacker plants in the place of a file.
    const PLANTS: [&str; 5] = ["link", "dangling link", "hard link", "FIFO", "directory"];

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::write(place.at("victim"), "mine").unwrap();
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn plant(&self, what: &str) -> PathBuf {
            let path = self.at("planted");
            match what {
                "link" => symlink(self.at("victim"), &path).unwrap(),
                "dangling link" => symlink(self.at("elsewhere"), &path).unwrap(),
                "hard link" => fs::hard_link(self.at("victim"), &path).unwrap(),
                "FIFO" => {
                    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
                }
                _ => fs::create_dir(&path).unwrap(),
            }
            path
        }

        /// Nothing was written through a plant, and nothing is left over.
        fn is_unharmed(&self, left: usize) {
            assert_eq!(fs::read_to_string(self.at("victim")).unwrap(), "mine");
            assert!(!self.at("elsewhere").exists());
            assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), left);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_replaced_file_is_never_written_through_what_was_planted() {
        for what in PLANTS {
            let place = Place::new();
            let path = place.plant(what);
            let replaced = replace(&path, SECRET, b"new");
            if what == "directory" {
                assert!(replaced.is_err());
            } else {
                replaced.unwrap();
                assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{what}");
                assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", SECRET));
            }
            place.is_unharmed(2);
        }
    }

    #[test]
    fn a_new_file_is_refused_where_anything_is() {
        for what in PLANTS {
            let place = Place::new();
            let path = place.plant(what);
            let error = write_new(&path, SECRET, b"new").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{what}");
            place.is_unharmed(2);
        }
        let place = Place::new();
        write_new(&place.at("new"), SECRET, b"new").unwrap();
        assert_eq!(fs::read(place.at("new")).unwrap(), b"new");
        assert_eq!((mode(&place.at("new")), fs::metadata(place.at("new")).unwrap().nlink()), (SECRET, 1));
        place.is_unharmed(2);
    }

    #[test]
    fn only_a_regular_file_with_one_name_is_appended_to() {
        for what in PLANTS {
            let place = Place::new();
            let path = place.plant(what);
            assert!(append(&path, SECRET).is_err() && can_append(&path).is_err(), "{what}");
            place.is_unharmed(2);
        }
        let place = Place::new();
        let path = place.at("records");
        assert_eq!(can_append(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!path.exists());
        for line in ["a", "b"] {
            append(&path, SECRET).unwrap().write_all(line.as_bytes()).unwrap();
        }
        can_append(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("ab", SECRET));
    }

    #[test]
    fn what_is_published_is_what_was_written_even_if_its_temporary_name_was_taken() {
        let place = Place::new();
        let unfinished = Unfinished::beside(&place.at("new"), SECRET).unwrap();
        unfinished.file().write_all(b"mine").unwrap();
        let temporary = place.0.path().join(unfinished.name());
        fs::remove_file(&temporary).unwrap();
        fs::write(&temporary, "theirs").unwrap();
        // The kernel gives a file without a name no name again, and does not mistake it for the other one.
        assert!(unfinished.publish(OsStr::new("new")).is_err());
        assert!(unfinished.replace(OsStr::new("new")).is_err());
        assert!(!place.at("new").exists());
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing_behind() {
        let place = Place::new();
        drop(Unfinished::beside(&place.at("new"), SECRET).unwrap());
        place.is_unharmed(1);
    }

    #[test]
    fn root_sees_whose_directory_it_is_whatever_links_lead_there() {
        if !geteuid().is_root() {
            return println!("skipped: not root");
        }
        let place = Place::new();
        let of = |uid| Some(User { uid, groups: vec![uid] });
        for name in ["theirs", "roots", "shared"] {
            fs::create_dir(place.at(name)).unwrap();
        }
        std::os::unix::fs::chown(place.at("theirs"), Some(64998), Some(64998)).unwrap();
        fs::create_dir(place.at("theirs/roots")).unwrap();
        symlink(place.at("roots"), place.at("theirs/link")).unwrap();
        symlink("theirs/link/../roots", place.at("first")).unwrap();
        symlink("loop", place.at("loop")).unwrap();
        symlink(place.at("theirs/db"), place.at("roots/leads-to-theirs")).unwrap();
        symlink("db", place.at("roots/leads-to-roots")).unwrap();
        fs::set_permissions(place.at("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
        for roots in ["roots/db", "roots/leads-to-roots"] {
            assert_eq!(foreign_owner(&place.at(roots)).unwrap(), None, "{roots}");
        }
        for theirs in ["theirs/db", "theirs/roots/db", "theirs/link/db", "first/db", "roots/leads-to-theirs"]
        {
            assert_eq!(foreign_owner(&place.at(theirs)).unwrap(), of(64998), "{theirs}");
        }
        assert!(foreign_owner(&place.at("loop/db")).is_err());
        fs::create_dir_all(place.at("open/below")).unwrap();
        fs::set_permissions(place.at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(foreign_owner(&place.at("open/below/db")).unwrap_err().to_string().contains("on the way"));
        assert!(foreign_owner(&place.at("shared/db")).unwrap_err().to_string().contains("other than root"));
        fs::write(place.at("shared/db"), "").unwrap();
        std::os::unix::fs::chown(place.at("shared/db"), Some(64998), Some(64998)).unwrap();
        assert_eq!(foreign_owner(&place.at("shared/db")).unwrap(), of(64998));
    }

    #[test]
    fn process_with_several_threads_becomes_no_other_user() {
        // The test harness has threads of its own.
        assert!(become_user(&User { uid: 64998, groups: vec![64998] }).is_err());
    }
}
