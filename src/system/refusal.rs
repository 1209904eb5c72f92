//! What a host refuses to a process, as shared hosts do to an account: processes and threads, descriptors, memory.

use rustix::io::Errno;
use std::io::Error;

/// Which it was, of a failure to start or to open something; `None`: the failure is another.
pub fn refused(error: &Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::AGAIN => NO_PROCESS,
        Errno::MFILE => NO_FILE,
        Errno::NFILE => NO_FILES,
        Errno::NOMEM | Errno::NOBUFS => NO_MEMORY,
        _ => return None,
    })
}

const NO_PROCESS: &str = "this user may start no more processes and threads (ulimit -u)";
const NO_FILE: &str = "this process may open no more files (ulimit -n)";
const NO_FILES: &str = "this machine opens no more files";
pub const NO_MEMORY: &str = "this process gets no more memory (ulimit -v)";
/// Not the host's, but of the same kind.
pub const MANY_WAIT: &str = "as many requests as may wait or transfer files at once do so already";

/// The same, where somebody has told it in words already.
pub fn told_in(words: &str) -> Option<&'static str> {
    [NO_PROCESS, NO_FILE, NO_FILES, NO_MEMORY, MANY_WAIT].into_iter().find(|why| words.ends_with(why))
}

/// Whether so many bytes can be had now. Most of what is used later has no way to say that it was refused, and ends the
/// process.
pub fn has_memory(bytes: usize) -> bool {
    let mut room = Vec::<u8>::new();
    let has = room.try_reserve_exact(bytes).is_ok();
    // Memory that nobody looks at need not be asked for.
    std::hint::black_box(&room);
    // glibc keeps pieces as large as the largest that was ever given back to it: this one is not to be.
    room.shrink_to(1);
    std::hint::black_box(&room);
    has
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_apart_from_what_fails() {
        for (errno, word) in [
            (Errno::AGAIN, "ulimit -u"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "files"),
            (Errno::NOMEM, "memory"),
        ] {
            assert!(refused(&errno.into()).is_some_and(|why| why.contains(word)), "{errno:?}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::CONNREFUSED, Errno::NETUNREACH] {
            assert_eq!(refused(&errno.into()), None);
        }
        assert_eq!(refused(&Error::other("x")), None);
    }

    #[test]
    fn there_is_memory_for_little_and_not_for_everything() {
        assert!(has_memory(1 << 10) && !has_memory(isize::MAX as usize));
    }
}
