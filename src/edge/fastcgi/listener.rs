//! The socket at which web servers find this program, and who may speak to it.

use crate::system::clock::Deadline;
use crate::system::user;
use crate::values::listening::Address;
use rustix::fs::{flock, lstat, stat, FlockOperation, Mode};
use rustix::io::{ioctl_fionbio, Errno};
use rustix::net::sockopt::{set_socket_reuseaddr, set_tcp_nodelay};
use rustix::net::{
    accept_with, bind, connect, getpeername, getsockname, listen, socket_with, AddressFamily, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::process::umask;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As many requests may wait to be taken; the kernel lets fewer where it was told so.
const BACKLOG: i32 = 511;

/// How long others may take who begin at the same folder. Whoever keeps its lock for longer keeps nobody from beginning.
const TAKING_TURNS: Duration = Duration::from_secs(2);

pub struct Listener {
    socket: OwnedFd,
    admitted: Admitted,
    /// The socket's own file, which goes with it.
    file: Option<Own>,
    /// This program made it, so that who comes to it later would wait for nobody.
    is_own: bool,
}

/// Whose connections are served.
enum Admitted {
    /// Whoever may open the socket's file.
    All,
    /// This machine.
    Loopback,
    /// `FCGI_WEB_SERVER_ADDRS` (section 3.2 of the specification).
    Only(Vec<IpAddr>),
}

struct Own {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Listener {
    /// Listens there. `web_servers`: `FCGI_WEB_SERVER_ADDRS`. The error says what to do.
    pub fn at(address: &Address, web_servers: Option<&str>) -> Result<Listener, String> {
        match address {
            Address::Unix(path) => Listener::at_path(path),
            Address::Tcp(address) => Listener::at_port(address, web_servers),
        }
    }

    /// With the socket that standard input is.
    pub fn inherited(web_servers: Option<&str>) -> Result<Listener, String> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned();
        Listener::of(socket.map_err(|error| format!("the listening socket cannot be used: {error}"))?, web_servers)
    }

    /// With a socket that listens already.
    pub fn of(socket: OwnedFd, web_servers: Option<&str>) -> Result<Listener, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the listening socket cannot be used: {error}");
        ioctl_fionbio(&socket, true).map_err(|error| failed(&error))?;
        let name = getsockname(&socket).map_err(|error| failed(&error))?;
        let admitted = match name.address_family() {
            AddressFamily::UNIX => Admitted::All,
            _ => Admitted::of(web_servers)?,
        };
        Ok(Listener { socket, admitted, file: None, is_own: false })
    }

    /// With that socket, which was made [there](Listener::at) by the executable before this one.
    pub fn taken_over(address: &Address, web_servers: Option<&str>) -> Result<Listener, String> {
        let mut listener = Listener::inherited(web_servers)?;
        let name = getsockname(&listener.socket).ok();
        let is_there = match address {
            Address::Unix(path) => {
                listener.file = Own::of(path);
                let name: Option<SocketAddrUnix> = name.and_then(|name| name.try_into().ok());
                name.is_some_and(|name| name.path_bytes() == Some(path.as_os_str().as_encoded_bytes()))
            }
            Address::Tcp(address) => name.and_then(|name| name.try_into().ok()) == Some(*address),
        };
        listener.is_own = true;
        is_there.then_some(listener).ok_or("standard input is a listening socket already: leave --listen out".into())
    }

    /// A left-over file is replaced where nobody answers at it. The folder's lock keeps two who start at once apart.
    fn at_path(path: &Path) -> Result<Listener, String> {
        let failed = |what: &str, error: Errno| {
            let me = user::own().map_or_else(String::new, |me| format!(", as {}", user::name_of(me)));
            format!("cannot {what} {}{me}: {error}", path.display())
        };
        let address = SocketAddrUnix::new(path).map_err(|error| failed("listen at", error))?;
        let folder = path.parent().and_then(|folder| File::open(folder).ok());
        if let Some(folder) = &folder {
            let until = Deadline::after(TAKING_TURNS);
            while flock(folder, FlockOperation::NonBlockingLockExclusive).is_err() && !until.has_passed() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let socket = stream(AddressFamily::UNIX).map_err(|error| failed("listen at", error))?;
        let made = |socket: &OwnedFd| {
            let before = umask(Mode::from_raw_mode(0o117));
            let bound = bind(socket, &address);
            umask(before);
            bound
        };
        match made(&socket) {
            Err(Errno::ADDRINUSE) if !is_socket(path) => {
                return Err(format!("{} is there and is no socket", path.display()))
            }
            Err(Errno::ADDRINUSE) => {
                let probe = stream(AddressFamily::UNIX).map_err(|error| failed("look at", error))?;
                match connect(&probe, &address) {
                    Err(Errno::CONNREFUSED) => {}
                    Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(failed("look who listens at", error)),
                    _ => return Err(format!("somebody listens at {} already", path.display())),
                }
                std::fs::remove_file(path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
                made(&socket).map_err(|error| failed("listen at", error))?;
            }
            bound => bound.map_err(|error| failed("listen at", error))?,
        }
        listen(&socket, BACKLOG).map_err(|error| failed("listen at", error))?;
        Ok(Listener { socket, admitted: Admitted::All, file: Own::of(path), is_own: true })
    }

    fn at_port(address: &SocketAddr, web_servers: Option<&str>) -> Result<Listener, String> {
        let admitted = Admitted::of(web_servers)?;
        if !address.ip().is_loopback() && !matches!(admitted, Admitted::Only(_)) {
            return Err(format!(
                "{address} can be reached by others than this machine, and nobody would ask them for a password: listen at \
                 127.0.0.1, or name the web servers' addresses in the variable FCGI_WEB_SERVER_ADDRS"
            ));
        }
        let failed = |error: Errno| format!("cannot listen at {address}: {error}");
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = stream(family).map_err(failed)?;
        let _ = set_socket_reuseaddr(&socket, true);
        bind(&socket, address).and_then(|()| listen(&socket, BACKLOG)).map_err(failed)?;
        Ok(Listener { socket, admitted, file: None, is_own: true })
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next connection that has arrived, `None`: there is none now. Another's than a web server's is closed.
    pub fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) if self.admits(&connection) => {
                    if !matches!(self.admitted, Admitted::All) {
                        let _ = set_tcp_nodelay(&connection, true);
                    }
                    return Ok(Some(connection));
                }
                Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn admits(&self, connection: &OwnedFd) -> bool {
        let ip = || {
            let peer: SocketAddr = getpeername(connection).ok()??.try_into().ok()?;
            Some(peer.ip().to_canonical())
        };
        match &self.admitted {
            Admitted::All => true,
            Admitted::Loopback => ip().is_some_and(|ip| ip.is_loopback()),
            Admitted::Only(addresses) => ip().is_some_and(|ip| addresses.contains(&ip)),
        }
    }

    /// Nobody new finds it any more; who has come already is still accepted.
    pub fn hide(&mut self) {
        if let Some(Own { path, device_and_inode }) = self.file.take() {
            if identity(&path) == Some(device_and_inode) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    pub fn is_own(&self) -> bool {
        self.is_own
    }
}

impl Own {
    fn of(path: &Path) -> Option<Own> {
        identity(path).map(|device_and_inode| Own { path: path.to_owned(), device_and_inode })
    }
}

impl Admitted {
    fn of(web_servers: Option<&str>) -> Result<Admitted, String> {
        let Some(list) = web_servers.filter(|list| !list.is_empty()) else { return Ok(Admitted::Loopback) };
        let addresses = list.split(',').map(|address| address.trim().parse::<IpAddr>());
        let addresses = addresses.collect::<Result<Vec<_>, _>>();
        addresses.map(Admitted::Only).map_err(|_| {
            format!("the variable FCGI_WEB_SERVER_ADDRS must hold addresses with commas between, not {list:?}")
        })
    }
}

fn stream(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = stat(path).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// And no link to one.
fn is_socket(path: &Path) -> bool {
    lstat(path).is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_socket())
}
