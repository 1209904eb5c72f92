//! What this process was given, and what it keeps from others: its memory, and what it inherited.

/// No core dump holds the tokens: neither a file, nor what a program that the kernel starts for it would read.
#[cfg(unix)]
pub fn keep_out_of_core_dumps() {
    use rustix::process::{setrlimit, Resource, Rlimit};
    // Neither is worth a word: where one is refused, the other holds.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

#[cfg(not(unix))]
pub fn keep_out_of_core_dumps() {}

/// No process that is started from now on holds what web servers leave open in their programs (listening sockets, other
/// requests' pipes), but for its standard streams. Nor this one what it starts later.
#[cfg(unix)]
pub fn bequeath_nothing() {
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
}

#[cfg(not(unix))]
pub fn bequeath_nothing() {}

/// Whether this is a socket at which connections arrive.
#[cfg(unix)]
pub fn is_listening(fd: impl std::os::fd::AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false)
}
